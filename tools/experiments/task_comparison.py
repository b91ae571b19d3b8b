"""Content of tables and charts for one task of an experiment: groups of runs, failed cells and differences."""

from __future__ import annotations

from dataclasses import dataclass, field

from tools.experiments.cell_runs import CellRun
from tools.experiments.differences import Difference
from tools.experiments.groups import Group
from tools.runs.metrics import TaskMetrics


@dataclass(frozen=True)
class TaskComparison:
    """Content of tables and charts for one task of an experiment. Some runs may not be finished.

    Attributes:
        name: name of the task; "" if the experiment has only one.
        metrics: metrics of the task.
        groups: groups of runs that differ only in the seed.
        differences: differences between groups; empty until all runs are finished.
    """

    name: str
    metrics: TaskMetrics
    groups: list[Group]
    differences: list[Difference] = field(default_factory=list)

    @property
    def runs(self) -> list[CellRun]:
        """The runs of all groups."""
        return [run for group in self.groups for run in group.runs]
