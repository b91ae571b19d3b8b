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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli import parse, run
from tools.compare_cells import Cell, cells
from tools.compare_jobs import train
from tools.compare_plan import Matrix, Plan, matrix_of, read_plans
from tools.compare_runs import TASKS, Run, Task
from tools.compare_state import State, state
from tools.compare_table import Chapter, Group, groups, write_tables
from tools.options import require

if TYPE_CHECKING:
    from tools.compare_stats import Difference


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
        rehearse: before anything is trained make a few steps of each cell, to see that it runs and what it takes.
        table_only: train nothing, write tables and pictures of what is there.
        x: what the curves are drawn over.
    """

    output: str
    experiment: str | None = None
    script: Literal["train_cls", "train_det", "train_seg"] | None = None
    backbones: str | None = None
    seeds: str | None = None
    jobs: int = 1
    rehearse: bool = True
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
    comparison = Comparison(make_plans(options, passed_on), options)
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


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words for this script, the experiment's file as an option, and those after `--` for the training script."""
    place = list(argv).index("--") if "--" in argv else len(argv)
    own, passed_on = list(argv[:place]), list(argv[place + 1 :])
    if own and not own[0].startswith("-"):
        own[0] = f"--experiment={own[0]}"
    return own, passed_on


def make_plans(options: CompareOptions, passed_on: Sequence[str]) -> list[Plan]:
    """The experiment of the file, or of the command line.

    Raises:
        UserError: for a file that is none, or lists that are empty.
    """
    if options.experiment:
        if passed_on:
            raise UserError(f"-- {passed_on[0]}: {options.experiment} says the options; write this one into it")
        return read_plans(Path(options.experiment), list(TASKS))
    matrix: Matrix = {}
    for axis in ("backbone", "seed"):
        text = getattr(options, f"{axis}s")
        if text is not None:
            values = [word.strip() for word in str(text).split(",") if word.strip()]
            require(values, f"{axis}s", text, "name at least one, with commas between")
            matrix |= matrix_of({axis: values}, f"--{axis}s")
    require(matrix, "backbones", options.backbones, "name what to compare, with commas between; or give --seeds")
    return [Plan(str(options.script), tuple(passed_on), (matrix,))]


class Comparison:
    """An experiment in its folder."""

    def __init__(self, plans: Sequence[Plan], options: CompareOptions) -> None:
        self.plans, self.folder, self.x = plans, Path(options.output), options.x
        self.of_plan = [cells(plan) for plan in plans]
        self.cells = [cell for found in self.of_plan for cell in found]
        names = Counter(cell.name for cell in self.cells)
        if twice := [name for name, count in names.items() if count > 1]:  # a task's name runs into that of an axis
            raise UserError(f"two cells would share the folder {twice[0]}: two tasks make it; rename one of them")

    def show_plan(self) -> list[tuple[Cell, State]]:
        """Print the cells and what is left to do for each.

        Returns:
            Those to train.

        Raises:
            UserError: where a cell's folder holds another run.
        """
        states = [(cell, state(cell, self.folder / cell.name)) for cell in self.cells]
        width = max(len(cell.name) for cell in self.cells)
        scripts = ", ".join(dict.fromkeys(plan.script for plan in self.plans))
        print(f"{scripts}, {len(self.cells)} cells in {self.folder}")
        words = {"done": "done", "resume": "to resume", "begin": "to do"}
        for cell, how in states:
            print(f"  {cell.name:<{width}}  {words[how]}")
        print(flush=True)
        return [(cell, how) for cell, how in states if how != "done"]

    def show_hours(self, todo: Sequence[tuple[Cell, State]], *, jobs: int) -> None:
        """Rehearse what is to be trained and print how long it will take.

        Raises:
            UserError: where a cell cannot run; nothing has been trained then.
        """
        from tools.compare_rehearse import rehearsals

        print("rehearsing a few steps of what differs ...", flush=True)
        found = rehearsals([cell for cell, _ in todo], jobs=jobs)
        width = max(map(len, found))
        for name, rehearsal in found.items():
            print(f"  {name:<{width}}  {rehearsal}")
        hours = sum(rehearsal.hours for rehearsal in found.values())
        at_a_time = f", {hours / jobs:.2g} with {jobs} at a time" if jobs > 1 else ""
        print(f"in all about {hours:.2g} hours{at_a_time}; cells that resume take less\n", flush=True)

    def train(self, todo: Sequence[tuple[Cell, State]], *, jobs: int) -> dict[str, str]:
        """Train cells, one line on the terminal for each start and end; tables and curves after each.

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

        train(todo, folder=self.folder, jobs=jobs, started=start, ended=end)
        return failed

    def report(self, *, whole: bool = False) -> str:
        """Write tables and pictures; returns the table's text.

        Args:
            whole: with differences and their intervals, which read the predictions of all runs.
        """
        from tools.compare_charts import draw_costs, draw_differences, draw_learning
        from tools.compare_plot import draw_curves

        self._create_folder()
        chapters = self._chapters(whole=whole)
        text = write_tables(self.folder, chapters)
        drawn = [draw_curves(self._curves(chapter), chapter.groups, chapter.task, x=self.x) for chapter in chapters]
        names = [self._curves(chapter).name for chapter, there in zip(chapters, drawn, strict=True) if there]
        pictures = {"learning.png": draw_learning, "differences.png": draw_differences, "costs.png": draw_costs}
        names += [name for name, draw in pictures.items() if draw(self.folder / name, chapters)]
        return f"\n{text}\n{', '.join(['table.md', 'table.csv', 'table.json', *names])} are in {self.folder}"

    def _chapters(self, *, whole: bool) -> list[Chapter]:
        chapters = []
        for plan, own in zip(self.plans, self.of_plan, strict=True):
            task = TASKS[plan.script]
            found = groups([self._run(cell) for cell in own], plan.axes())
            chapters.append(Chapter(plan.task, task, found, self._differences(found, task) if whole else []))
        return chapters

    def _differences(self, found: Sequence[Group], task: Task) -> list[Difference]:
        if sum(bool(group.finished) for group in found) < 2:
            return []
        from tools.compare_stats import differences

        return differences(found, task.solid)

    def _curves(self, chapter: Chapter) -> Path:
        return self.folder / (f"curves-{chapter.name}.png" if chapter.name else "curves.png")

    def _run(self, cell: Cell) -> Run:
        return Run.read(self.folder / cell.name, cell)

    def _outcome(self, cell: Cell) -> str:
        finished = self._run(cell)
        metrics = TASKS[cell.script].metrics
        shown = [(metric.title, metric.percent(finished.results or {})) for metric in metrics]
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
