"""Groups of runs that differ only in seed, draw and fold. Tables and charts show each group as one row or line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from tools.experiments.cell_runs import CellRun
from tools.experiments.plan import REPEATED
from tools.runs.metrics import Metric


@dataclass(frozen=True)
class Group:
    """A group: all runs of an experiment that differ only in seed, draw and fold.

    Attributes:
        values: names of the values on the other axes, by option.
        runs: the runs of all seeds, draws and folds, including unfinished ones.
    """

    values: dict[str, str]
    runs: list[CellRun]

    @property
    def finished(self) -> list[CellRun]:
        """The runs of the group that are finished and so have results."""
        return [run for run in self.runs if run.results is not None]

    def name(self, axes: Sequence[str]) -> str:
        """Return a name for legends: the group's values of the options `axes`, such as "resnet20, imagenet"."""
        shown = [self.values[axis] for axis in axes] or list(self.values.values())
        return ", ".join(shown) or "all"

    def percents(self, metric: Metric) -> list[float]:
        """Return the values of a metric in percent, one for each finished run that measured it."""
        return [value for run in self.finished if (value := metric.percent(run.results or {})) is not None]

    def spread(self, metric: Metric) -> tuple[float | None, float | None]:
        """Return mean and sample standard deviation of a metric over the finished runs, in percent.

        The mean is None without finished runs, the standard deviation with fewer than two.
        """
        values = self.percents(metric)
        return (mean(values) if values else None, stdev(values) if len(values) > 1 else None)


def group_runs(runs: Sequence[CellRun], axes: Sequence[str]) -> list[Group]:
    """Group the runs whose values are equal for all options in `axes` except seed, draw and fold, in order."""
    found: dict[str, Group] = {}
    for run in runs:
        values = {axis: run.cell.label(axis) for axis in axes if axis not in REPEATED}
        found.setdefault(json.dumps(values), Group(values, [])).runs.append(run)
    return list(found.values())


def varying_axes(groups: Sequence[Group]) -> list[str]:
    """Return the options that do not have the same value in all groups."""
    names = list(groups[0].values) if groups else []
    return [name for name in names if len({group.values[name] for group in groups}) > 1]
