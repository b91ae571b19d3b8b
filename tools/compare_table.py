"""The table of an experiment: a row per group of cells that differ in the seed alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tools.compare_cells import SEED
from tools.compare_runs import Metric, Run, Task
from tools.files import write_text


@dataclass(frozen=True)
class Group:
    """Cells that differ in the seed alone.

    Attributes:
        values: of the other axes.
        runs: of all seeds, unfinished ones included.
    """

    values: dict[str, Any]
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.results is not None]

    def name(self, varying: Sequence[str]) -> str:
        """What a legend calls it: the values that differ between groups."""
        shown = [_text(self.values[axis]) for axis in varying] or [_text(value) for value in self.values.values()]
        return ", ".join(shown) or "all"


def groups(runs: Sequence[Run], axes: Sequence[str]) -> list[Group]:
    """Runs by the values of all axes but the seed, in order of appearance.

    Args:
        axes: names of options.
    """
    found: dict[str, Group] = {}
    for run in runs:
        values = {axis: run.config.get(axis) for axis in axes if axis != SEED}
        found.setdefault(json.dumps(values), Group(values, [])).runs.append(run)
    return list(found.values())


def varying(found: Sequence[Group]) -> list[str]:
    """The axes whose values differ between groups."""
    names = list(found[0].values) if found else []
    return [name for name in names if len({json.dumps(group.values[name]) for group in found}) > 1]


def write_table(folder: Path, found: Sequence[Group], task: Task) -> str:
    """Write table.md and table.csv.

    Returns:
        The text of table.md.

    Raises:
        UserError: where they cannot be written.
    """
    text = markdown(found, task)
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", as_csv(found, task))
    return text


def markdown(found: Sequence[Group], task: Task) -> str:
    """The table for people: mean ± sample standard deviation over the seeds."""
    axes = list(found[0].values) if found else []
    head = [*axes, "n", *(metric.title for metric in task.metrics), *(figure.title for figure in FIGURES)]
    rows = [[*_first_cells(group), *_middle_cells(group, task), *_last_cells(group)] for group in found]
    lines = [_row(head), _row(["---"] * len(axes) + ["---:"] * (len(head) - len(axes))), *map(_row, rows)]
    notes = (
        "Of the last evaluation; mean ± sample standard deviation over n seeds. GFLOPs are multiply-adds of one image "
        "at its test size; images/s are of training alone, memory is the peak of the process."
    )
    return "\n".join([*lines, "", notes, ""])


def as_csv(found: Sequence[Group], task: Task) -> str:
    """The table for programs: means and standard deviations in columns of their own, not rounded."""
    axes = list(found[0].values) if found else []
    head = [*axes, "n", "planned"]
    head += [f"{metric.title} {part}" for metric in task.metrics for part in ("mean", "std")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, *(figure.title for figure in FIGURES)])
    for group in found:
        values = [part for metric in task.metrics for part in spread(group, metric)]
        values += [figure.of(group) for figure in FIGURES]
        first = [_text(value) for value in group.values.values()]
        writer.writerow(
            [*first, len(group.finished), len(group.runs), *("" if value is None else value for value in values)]
        )
    return text.getvalue()


def spread(group: Group, metric: Metric) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation in percent over the finished seeds; None for none, and for one."""
    values = [value for run in group.finished if (value := metric.percent(run.results or {})) is not None]
    return (mean(values) if values else None, stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Figure:
    """A column beside the metrics: the mean (or the largest) over finished seeds."""

    title: str
    read: Callable[[Run], float | None]
    form: str
    largest: bool = False

    def of(self, group: Group) -> float | None:
        """The value of a group; None where no run says it."""
        values = [value for run in group.finished if (value := self.read(run)) is not None]
        return (max(values) if self.largest else mean(values)) if values else None


def _result(key: str, unit: float) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        value = (run.results or {}).get(key)
        return value / unit if isinstance(value, (int, float)) else None

    return read


FIGURES = (
    Figure("parameters (M)", _result("parameters", 1e6), ".2f"),
    Figure("GFLOPs", _result("macs", 1e9), ".3f"),
    Figure("images/s", Run.images_per_second, ".0f"),
    Figure("memory (GiB)", _result("peak_memory", 2**30), ".2f", largest=True),
    Figure("minutes", Run.minutes, ".1f"),
)


def _first_cells(group: Group) -> list[str]:
    done, planned = len(group.finished), len(group.runs)
    return [*map(_text, group.values.values()), str(done) if done == planned else f"{done} of {planned}"]


def _middle_cells(group: Group, task: Task) -> list[str]:
    spreads = (spread(group, metric) for metric in task.metrics)
    return [
        "" if middle is None else f"{middle:.2f}" if deviation is None else f"{middle:.2f} ± {deviation:.2f}"
        for middle, deviation in spreads
    ]


def _last_cells(group: Group) -> list[str]:
    return ["" if (value := figure.of(group)) is None else f"{value:{figure.form}}" for figure in FIGURES]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
