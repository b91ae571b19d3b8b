"""Carries out an experiment: plans and trains its cells (training runs), and writes tables and charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from backbones.common.files import create_output
from backbones.errors import UserError, counted
from tools.experiments.cell_runs import CellRun
from tools.experiments.cells import Cell, make_cells
from tools.experiments.charts import draw_costs, draw_differences, draw_learning
from tools.experiments.curves import draw_curves
from tools.experiments.differences import Difference, find_differences
from tools.experiments.groups import Group, group_runs
from tools.experiments.jobs import train
from tools.experiments.options import CompareOptions
from tools.experiments.plan import Plan
from tools.experiments.rehearse import rehearsals
from tools.experiments.state import CellState, read_state
from tools.experiments.tables import write_tables
from tools.experiments.task_comparison import TaskComparison
from tools.runs.log import evaluations
from tools.runs.metrics import TASK_METRICS, TaskMetrics
from tools.tasks.options import COMMANDS

CHARTS = {"learning.png": draw_learning, "differences.png": draw_differences, "costs.png": draw_costs}


class Comparison:
    """An experiment and its folder: plans and trains the cells (training runs), and writes tables and charts.

    Raises:
        UserError: a cell has invalid options, or two cells have the same folder name.
    """

    def __init__(self, plans: Sequence[Plan], options: CompareOptions) -> None:
        self.plans, self.folder, self.options = plans, Path(options.output), options
        self.metrics = {plan.script: self._metrics(plan.script) for plan in plans}  # fails for an unknown --metric
        self.cells_by_plan = [make_cells(plan) for plan in plans]
        self.cells = [cell for cells in self.cells_by_plan for cell in cells]
        # The names of two tasks can give the same folder, such as task "a-epochs3", and task "a" with epochs 3.
        names = Counter(cell.name for cell in self.cells)
        duplicate = next((name for name, count in names.items() if count > 1), None)
        if duplicate is not None:
            raise UserError(
                f"two cells of different tasks would use the same folder {duplicate}; rename one of the tasks"
            )

    def show_plan(self) -> list[tuple[Cell, CellState]]:
        """Print all cells (training runs) with their states: finished, to be resumed, or to be started.

        Returns:
            The cells that are not finished.

        Raises:
            UserError: the folder of a cell holds another run.
        """
        states = [(cell, read_state(cell, self.folder / cell.name)) for cell in self.cells]
        width = max(len(cell.name) for cell in self.cells)
        scripts = ", ".join(dict.fromkeys(plan.script for plan in self.plans))
        print(f"{scripts}, {counted(len(self.cells), 'cell')} in {self.folder}")
        words = {"done": "done", "resume": "to resume", "begin": "to do"}
        for cell, state in states:
            print(f"  {cell.name:<{width}}  {words[state]}")
        print(flush=True)
        return [(cell, state) for cell, state in states if state != "done"]

    def show_hours(self, todo: Sequence[tuple[Cell, CellState]]) -> None:
        """Make dry runs of the unfinished cells (runs), and print how long their training takes.

        Raises:
            UserError: a cell cannot run. Nothing has been trained yet.
        """
        jobs = self.options.jobs
        print("rehearsing a few steps of each distinct cell ...", flush=True)
        found = rehearsals([cell for cell, _ in todo], jobs=jobs)
        width = max(map(len, found))
        for name, rehearsal in found.items():
            print(f"  {name:<{width}}  {rehearsal}")
        hours = sum(rehearsal.hours for rehearsal in found.values())
        at_a_time = f", {hours / jobs:.2g} with {jobs} at a time" if jobs > 1 else ""
        print(f"in total about {hours:.2g} hours{at_a_time}; cells that resume take less\n", flush=True)

    def train(self, todo: Sequence[tuple[Cell, CellState]]) -> dict[str, str]:
        """Train cells (runs). Print a line at each start and end; update tables and charts after each cell.

        Returns:
            The error messages of the cells that failed, by the name of the cell.
        """
        create_output(self.folder)
        failed: dict[str, str] = {}
        count = 0

        def started(cell: Cell, state: CellState) -> None:
            print(f"{cell.name}: {'resumes' if state == 'resume' else 'begins'}, see {cell.name}.log", flush=True)

        def ended(cell: Cell, error: str | None) -> None:
            nonlocal count
            count += 1
            if error:
                failed[cell.name] = error
            print(f"[{count}/{len(todo)}] {cell.name}: {error or self._outcome(cell)}", flush=True)
            self.report()

        train(todo, folder=self.folder, jobs=self.options.jobs, started=started, ended=ended)
        return failed

    def report(self, *, with_differences: bool = False) -> str:
        """Write tables and charts; return the table and the names of the written files as text.

        Args:
            with_differences: also compute differences and their intervals, from the predictions of all runs.
        """
        create_output(self.folder)
        tasks = self._tasks(with_differences=with_differences)
        text = write_tables(self.folder, tasks)
        names = [name for task in tasks if (name := self._draw_curves(task))]
        names += [name for name, draw in CHARTS.items() if draw(self.folder / name, tasks)]
        return f"\n{text}\n{', '.join(['table.md', 'table.csv', 'table.json', *names])} are in {self.folder}"

    def _tasks(self, *, with_differences: bool) -> list[TaskComparison]:
        tasks = []
        for plan, cells in zip(self.plans, self.cells_by_plan, strict=True):
            runs = [self._run(cell) for cell in cells]
            metrics, groups = self._measured(plan.script, runs), group_runs(runs, plan.axes())
            differences = _differences(groups, metrics) if with_differences else []
            tasks.append(TaskComparison(plan.task, metrics, groups, differences))
        return tasks

    def _draw_curves(self, task: TaskComparison) -> str | None:
        """Draw the learning curves of a task; return the name of the file, or None if no metrics were logged."""
        name = f"curves-{task.name}.png" if task.name else "curves.png"
        return name if draw_curves(self.folder / name, task.groups, task.metrics, x=self.options.x) else None

    def _run(self, cell: Cell) -> CellRun:
        return CellRun.read(self.folder / cell.name, cell)

    def _outcome(self, cell: Cell) -> str:
        """Return a line of text about a finished cell: its metrics, and the minutes that its training took."""
        run = self._run(cell)
        metrics = self._measured(cell.script, [run]).table
        shown = [(metric.title, metric.percent(run.results or {})) for metric in metrics]
        minutes = run.minutes()
        took = [] if minutes is None else [f"{minutes:.1f} minutes"]
        return ", ".join([f"{title} {value:.2f}" for title, value in shown if value is not None] + took) or "done"

    def _metrics(self, script: str) -> TaskMetrics:
        metrics = TASK_METRICS[COMMANDS[script].task]
        return metrics.by(self.options.metric) if self.options.metric else metrics

    def _measured(self, script: str, runs: Sequence[CellRun]) -> TaskMetrics:
        """Return the metrics of a task that `--metric` chose, or that its runs have."""
        metrics = self.metrics[script]
        if self.options.metric:
            return metrics
        return metrics.measured(values for run in runs for values in (run.results or {}, *evaluations(run.lines)))


def _differences(groups: Sequence[Group], metrics: TaskMetrics) -> list[Difference]:
    """Return the differences between groups of runs; [] if fewer than two groups have a finished run."""
    if sum(bool(group.finished) for group in groups) < 2:
        return []
    return find_differences(groups, metrics.primary)
