"""Groups, failed cells and differences of one task of an experiment, for tables and charts."""

from __future__ import annotations

from dataclasses import dataclass, field

from tools.experiments.cell_runs import CellRun
from tools.experiments.differences import Difference
from tools.experiments.groups import Group
from tools.runs.metrics import TaskMetrics


@dataclass(frozen=True)
class TaskComparison:
    """Groups, failed cells and differences of one task of an experiment; some cells may not be finished.

    Attributes:
        name: of the task; empty if the experiment has only one.
        metrics: of the task.
        groups: runs that differ only in the seed.
        differences: between groups; empty until all cells are trained.
    """

    name: str
    metrics: TaskMetrics
    groups: list[Group]
    differences: list[Difference] = field(default_factory=list)

    @property
    def runs(self) -> list[CellRun]:
        """The runs of all cells."""
        return [run for group in self.groups for run in group.runs]
