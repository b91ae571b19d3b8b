"""Run an experiment, a matrix of training runs that differ in some options, and compare them in a table and a plot.

    python tools/compare.py classification/experiments/degradation.yaml --output DIR
    python tools/compare.py --script train_cls --backbones plain20,resnet20 --seeds 0,1 --output DIR -- --data cifar10
    python tools/compare.py classification/experiments/degradation.yaml --output DIR --table-only

An experiment is a YAML file; any option of the script may be an axis, and `seed` is the one that is averaged over:

    script: train_cls
    options: {data: cifar10, epochs: 30}           # of every run
    matrix: {backbone: [plain20, plain56], seed: [0, 1]}
    runs:                                          # besides the matrix, or instead of it
      - {backbone: [resnet20, resnet56]}

Each cell is an ordinary run folder DIR/<name>/, with what its script printed in DIR/<name>.log. The same command
goes on where it was stopped: finished cells stay, unfinished ones resume. DIR/table.md, table.csv and curves.png are
written anew after each cell. The exit status is 1 where a cell failed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli import parse, run
from tools.compare_cells import Cell, Matrix, Plan, axes, cells, read_plan
from tools.compare_jobs import train
from tools.compare_runs import TASKS, Run
from tools.compare_state import State, state
from tools.compare_table import groups, write_table
from tools.options import require


@dataclass
class CompareOptions:
    """The experiment.

    Args:
        output: folder of the runs, the table and the plot.
        experiment: its YAML file; may be named without --experiment, as the first word.
        script: instead of a file: the training script; what follows `--` on the command line goes to it.
        backbones: instead of a file: names with commas between.
        seeds: instead of a file: numbers with commas between.
        jobs: runs at a time, which share the cores and take a GPU each.
        table_only: train nothing, write table and plot of what is there.
        x: what the curves are drawn over.
    """

    output: str
    experiment: str | None = None
    script: Literal["train_cls", "train_det", "train_seg"] | None = None
    backbones: str | None = None
    seeds: str | None = None
    jobs: int = 1
    table_only: bool = False
    x: Literal["epochs", "iterations"] = "epochs"

    def __post_init__(self) -> None:
        require(self.jobs > 0, "jobs", self.jobs, "must be above 0")
        named = [name for name in ("script", "backbones", "seeds") if getattr(self, name) is not None]
        require(
            not (self.experiment and named),
            "experiment",
            self.experiment,
            f"says it all; leave --{' --'.join(named)} out",
        )
        require(
            self.experiment or self.script, "script", self.script, "name a training script, or an experiment's file"
        )


@dataclass
class Options:
    """Everything a comparison is told."""

    compare: CompareOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, plan, train what is missing, report."""
    own, passed_on = split(sys.argv[1:] if argv is None else argv)
    options = parse(Options, description=__doc__.splitlines()[0], argv=own).compare
    if options.table_only and not Path(options.output).is_dir():
        raise UserError(f"--output {options.output}: no such folder to read; leave --table-only out to train")
    plan = make_plan(options, passed_on)
    comparison = Comparison(plan, options)
    todo = comparison.show_plan()
    failed = {} if options.table_only else comparison.train(todo, jobs=options.jobs)
    print(comparison.report())
    if failed:
        print(f"\n{len(failed)} of {len(comparison.cells)} cells failed:", file=sys.stderr)
        for name, error in failed.items():
            print(f"  {name}: {error}", file=sys.stderr)
        raise SystemExit(1)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words for this script, the experiment's file as an option, and those after `--` for the training script."""
    place = list(argv).index("--") if "--" in argv else len(argv)
    own, passed_on = list(argv[:place]), list(argv[place + 1 :])
    if own and not own[0].startswith("-"):
        own[0] = f"--experiment={own[0]}"
    return own, passed_on


def make_plan(options: CompareOptions, passed_on: Sequence[str]) -> Plan:
    """The experiment of the file, or of the command line.

    Raises:
        UserError: for a file that is none, or lists that are empty.
    """
    if options.experiment:
        if passed_on:
            raise UserError(f"-- {passed_on[0]}: {options.experiment} says the options; write this one into it")
        return read_plan(Path(options.experiment), list(TASKS))
    matrix: Matrix = {}
    for axis in ("backbone", "seed"):
        text = getattr(options, f"{axis}s")
        if text is not None:
            matrix[axis] = [word.strip() for word in str(text).split(",") if word.strip()]
            require(matrix[axis], f"{axis}s", text, "name at least one, with commas between")
    require(matrix, "backbones", options.backbones, "name what to compare, with commas between; or give --seeds")
    return Plan(str(options.script), tuple(passed_on), (matrix,))


class Comparison:
    """An experiment in its folder."""

    def __init__(self, plan: Plan, options: CompareOptions) -> None:
        self.plan, self.folder, self.x = plan, Path(options.output), options.x
        self.task, self.cells, self.axes = TASKS[plan.script], cells(plan), axes(plan)

    def show_plan(self) -> list[tuple[Cell, State]]:
        """Print the cells and what is left to do for each.

        Returns:
            Those to train.

        Raises:
            UserError: where a cell's folder holds another run.
        """
        states = [(cell, state(cell, self.folder / cell.name)) for cell in self.cells]
        width = max(len(cell.name) for cell in self.cells)
        print(f"{self.plan.script}, {len(self.cells)} cells in {self.folder}")
        words = {"done": "done", "resume": "to resume", "begin": "to do"}
        for cell, how in states:
            print(f"  {cell.name:<{width}}  {words[how]}")
        print(flush=True)
        return [(cell, how) for cell, how in states if how != "done"]

    def train(self, todo: Sequence[tuple[Cell, State]], *, jobs: int) -> dict[str, str]:
        """Train cells, one line on the terminal for each start and end; table and plot after each.

        Returns:
            The failed ones' names and errors.
        """
        self._create_folder()
        failed: dict[str, str] = {}
        ended = 0

        def start(cell: Cell, how: State) -> None:
            print(f"{cell.name}: {'resumes' if how == 'resume' else 'begins'}, see {cell.name}.log", flush=True)

        def end(cell: Cell, error: str | None) -> None:
            nonlocal ended
            ended += 1
            if error:
                failed[cell.name] = error
            print(f"[{ended}/{len(todo)}] {cell.name}: {error or self._outcome(cell)}", flush=True)
            self.report()

        train(todo, script=self.plan.script, folder=self.folder, jobs=jobs, started=start, ended=end)
        return failed

    def report(self) -> str:
        """Write table.md, table.csv and curves.png; returns the table's text."""
        from tools.compare_plot import draw_curves

        self._create_folder()
        found = groups([self._run(cell) for cell in self.cells], self.axes)
        text = write_table(self.folder, found, self.task)
        drawn = draw_curves(self.folder / "curves.png", found, self.task, x=self.x)
        return f"\n{text}\ntable.md, table.csv{' and curves.png' if drawn else ''} are in {self.folder}"

    def _run(self, cell: Cell) -> Run:
        return Run.read(self.folder / cell.name, cell.config)

    def _outcome(self, cell: Cell) -> str:
        finished = self._run(cell)
        shown = [(metric.title, metric.percent(finished.results or {})) for metric in self.task.metrics]
        minutes = finished.minutes()
        took = [] if minutes is None else [f"{minutes:.1f} minutes"]
        return ", ".join([f"{title} {value:.2f}" for title, value in shown if value is not None] + took) or "done"

    def _create_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--output {self.folder}: cannot be created ({error.strerror}); name another folder"
            ) from None


if __name__ == "__main__":
    run(main)
