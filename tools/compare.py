"""Run an experiment: train models with all combinations of some options, and report which differences could be chance.

    python tools/compare.py degradation --output DIR             # an experiment that the package holds; see --list
    python tools/compare.py mine.yaml --output DIR
    python tools/compare.py --script train_cls --backbones plain20,resnet20 --seeds 0,1 --output DIR -- --data cifar10
    python tools/compare.py transfer --output DIR --table-only

An experiment is a YAML file. Any option of the training command may be an axis; results are averaged over `seed`,
`draw` and `fold`:

    script: train_det
    options: {data: coco, epochs: 12}              # of every run
    equal_steps: true                              # on a part of the data, train more or longer epochs
    matrix:
      backbone: [resnet18, resnet50]
      weights: {random: none, ours: "runs/{backbone}/model.safetensors"}   # values with names
      fraction: [0.1, 1.0]
      seed: [0, 1, 2]
    runs:                                          # in addition to the matrix, or instead of it
      - {backbone: [resnet101], seed: [0]}

With `tasks: {NAME: {script: ..., options: ..., matrix: ..., runs: ...}, ...}` one file holds several tasks; `options`
and `matrix` beside `tasks` apply to all of them. Each cell is an ordinary run folder DIR/<name>/, and DIR/<name>.log
holds the output of its training command. The same command continues an experiment that was stopped: finished cells
stay, unfinished cells resume. Tables and charts in DIR are updated after each cell; differences and their intervals are
computed at the end. The exit status is 1 if a cell failed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli import ending
from tools.cli.arguments import split_at_dashes
from tools.cli.packaged import describe
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions
from tools.experiments.options import CompareOptions
from tools.experiments.plan import make_plans


@dataclass
class CompareCommandOptions:
    """Options of compare.py."""

    compare: CompareOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Plan the cells (training runs), train the unfinished ones, and write the report."""
    own, for_training = split_at_dashes(argv)
    groups = parse(
        CompareCommandOptions,
        description=__doc__,
        argv=own,
        listing=partial(describe, "experiments"),
    )
    options = groups.compare
    if options.table_only and not Path(options.output).is_dir():
        raise UserError(
            f"--output {options.output}: no such folder, so --table-only has no runs to read; leave --table-only out "
            "to train"
        )

    # torch and matplotlib are imported only after parsing, so that --help is quick.
    from tools.experiments.comparison import Comparison

    comparison = Comparison(make_plans(options, for_training, groups.plugins.plugin), options)
    todo = comparison.show_plan()
    if todo and options.rehearse and not options.table_only:
        comparison.show_hours(todo)
    failed = {} if options.table_only else comparison.train(todo)
    print(comparison.report(with_differences=True))
    if failed:
        print(f"\n{len(failed)} of {len(comparison.cells)} cells failed:", file=sys.stderr)
        for name, error in failed.items():
            print(f"  {name}: {error}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    ending.run(main)
