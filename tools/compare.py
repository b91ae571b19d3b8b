"""Run an experiment, a matrix of training runs that differ in some options, and say what differs and what is chance.

    python tools/compare.py classification/experiments/degradation.yaml --output DIR
    python tools/compare.py --script train_cls --backbones plain20,resnet20 --seeds 0,1 --output DIR -- --data cifar10
    python tools/compare.py detection/experiments/transfer.yaml --output DIR --table-only

An experiment is a YAML file; any option of the script may be an axis, and `seed` is the one that is averaged over:

    script: train_det
    options: {data: coco, epochs: 12}              # of every run
    equal_steps: true                              # a share of the data is passed over more often
    matrix:
      backbone: [resnet18, resnet50]
      weights: {random: none, ours: "runs/{backbone}/model.safetensors"}   # values with names
      fraction: [0.1, 1.0]
      seed: [0, 1, 2]
    runs:                                          # besides the matrix, or instead of it
      - {backbone: [resnet101], seed: [0]}

With `tasks: {NAME: {script: ..., options: ..., matrix: ..., runs: ...}, ...}` one file holds several, `options` and
`matrix` beside it are for all. Each cell is an ordinary run folder DIR/<name>/, with what its script printed in
DIR/<name>.log. The same command goes on where it was stopped: finished cells stay, unfinished ones resume. Tables and
pictures in DIR are written anew after each cell, differences with their intervals at the end. The exit status is 1
where a cell failed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli.arguments import split_at_dashes
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions
from tools.experiments.comparison import Comparison
from tools.experiments.plan import CompareOptions, make_plans


@dataclass
class Options:
    """Everything a comparison is told."""

    compare: CompareOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, plan, train what is missing, report."""
    own, passed_on = split_at_dashes(argv)
    groups = parse(Options, description=__doc__.splitlines()[0], argv=own)
    options = groups.compare
    if options.table_only and not Path(options.output).is_dir():
        raise UserError(f"--output {options.output}: no such folder to read; leave --table-only out to train")
    comparison = Comparison(make_plans(options, passed_on, groups.plugins.plugin), options)
    todo = comparison.show_plan()
    if todo and options.rehearse and not options.table_only:
        comparison.show_hours(todo, jobs=options.jobs)
    failed = {} if options.table_only else comparison.train(todo, jobs=options.jobs)
    print(comparison.report(whole=True))
    if failed:
        print(f"\n{len(failed)} of {len(comparison.cells)} cells failed:", file=sys.stderr)
        for name, error in failed.items():
            print(f"  {name}: {error}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
