"""TODO-DOC tools/experiments/comparison.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.errors import UserError
from tools.experiments.cells import Cell, cells
from tools.experiments.groups import Group, groups
from tools.experiments.jobs import train
from tools.experiments.plan import SCRIPT_TASKS, CompareOptions, Plan
from tools.experiments.runs import Run
from tools.experiments.state import State, state
from tools.experiments.tables import Chapter, write_tables
from tools.runs.metrics import TASK_METRICS, TaskMetrics

if TYPE_CHECKING:
    from tools.experiments.differences import Difference


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
        from tools.experiments.rehearse import rehearsals

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
        from tools.experiments.charts import draw_costs, draw_differences, draw_learning
        from tools.experiments.curves import draw_curves

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
            task = TASK_METRICS[SCRIPT_TASKS[plan.script]]
            found = groups([self._run(cell) for cell in own], plan.axes())
            chapters.append(Chapter(plan.task, task, found, self._differences(found, task) if whole else []))
        return chapters

    def _differences(self, found: Sequence[Group], task: TaskMetrics) -> list[Difference]:
        if sum(bool(group.finished) for group in found) < 2:
            return []
        from tools.experiments.differences import differences

        return differences(found, task.primary)

    def _curves(self, chapter: Chapter) -> Path:
        return self.folder / (f"curves-{chapter.name}.png" if chapter.name else "curves.png")

    def _run(self, cell: Cell) -> Run:
        return Run.read(self.folder / cell.name, cell)

    def _outcome(self, cell: Cell) -> str:
        finished = self._run(cell)
        metrics = TASK_METRICS[SCRIPT_TASKS[cell.script]].table
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
