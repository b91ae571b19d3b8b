"""The tables of an experiment: a row per group of cells that differ in the seed alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from backbones.common.files import write_json, write_text
from tools.experiments.groups import Group
from tools.experiments.plan import SEED
from tools.experiments.runs import Run
from tools.runs.metrics import Metric, TaskMetrics

if TYPE_CHECKING:
    from tools.experiments.differences import Difference


NOTES = (
    "Of the last evaluation; mean ± sample standard deviation over n seeds. GFLOPs are multiply-adds of one image "
    "at its test size; images/s are of training alone, memory is the peak of the process."
)


METHOD = (
    "Differences are in points, larger is better. Their interval is Welch's over the seeds with the variance over "
    "1,000 resamples of the validation images added, the same ones for all runs; of a single seed it knows "
    "the images alone. About one interval of twenty leaves out zero by chance."
)


@dataclass(frozen=True)
class Chapter:
    """One task of an experiment, as far as it is.

    Attributes:
        name: of the task; empty where there is only one.
        differences: between its groups; empty before all is trained.
    """

    name: str
    task: TaskMetrics
    groups: list[Group]
    differences: list[Difference] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """Of all cells."""
        return [run for group in self.groups for run in group.runs]


def write_tables(folder: Path, chapters: Sequence[Chapter]) -> str:
    """Write table.md, table.csv and table.json.

    Returns:
        The text of table.md.

    Raises:
        UserError: where they cannot be written.
    """
    text = markdown(chapters)
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", as_csv(chapters))
    write_json(folder / "table.json", [as_json(chapter) for chapter in chapters])
    return text


def markdown(chapters: Sequence[Chapter]) -> str:
    """The tables for people: mean ± sample standard deviation over the seeds, failures, and differences in words."""
    parts = []
    for chapter in chapters:
        heading = [f"## {chapter.name}"] if chapter.name else []
        failed = [f"- `{run.cell.name}` failed: {run.error}" for run in chapter.runs if run.error]
        said = [f"- {each.statement()}" for each in chapter.differences]
        parts += ["\n".join(block) for block in (heading, _rows(chapter), failed, said) if block]
    notes = f"{NOTES} {METHOD}" if any(chapter.differences for chapter in chapters) else NOTES
    return "\n\n".join([*parts, notes, ""])


def as_csv(chapters: Sequence[Chapter]) -> str:
    """The tables for programs: means and standard deviations in columns of their own, not rounded."""
    rows = [
        {"task": c.name, **_flat(group, c.task)} if c.name else _flat(group, c.task)
        for c in chapters
        for group in c.groups
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(chapter: Chapter) -> dict[str, Any]:
    """All that is known of a task: groups, the runs of each, differences."""
    return {
        "task": chapter.name,
        "groups": [_group_json(group, chapter.task) for group in chapter.groups],
        "differences": [each.as_json() for each in chapter.differences],
    }


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


def _rows(chapter: Chapter) -> list[str]:
    axes = list(chapter.groups[0].values) if chapter.groups else []
    metrics = [metric.title for metric in chapter.task.table]
    head = [*axes, "n", *metrics, *(figure.title for figure in FIGURES)]
    rows = [
        [*_first_cells(group), *_middle_cells(group, chapter.task), *_last_cells(group)] for group in chapter.groups
    ]
    return [_row(head), _row(["---"] * len(axes) + ["---:"] * (len(head) - len(axes))), *map(_row, rows)]


def _first_cells(group: Group) -> list[str]:
    done, planned = len(group.finished), len(group.runs)
    failed = sum(run.error is not None for run in group.runs)
    count = str(done) if done == planned else f"{done} of {planned}"
    return [*group.values.values(), f"{count}, {failed} failed" if failed else count]


def _middle_cells(group: Group, task: TaskMetrics) -> list[str]:
    spreads = (spread(group, metric) for metric in task.table)
    return [
        "" if middle is None else f"{middle:.2f}" if deviation is None else f"{middle:.2f} ± {deviation:.2f}"
        for middle, deviation in spreads
    ]


def _last_cells(group: Group) -> list[str]:
    return ["" if (value := figure.of(group)) is None else f"{value:{figure.form}}" for figure in FIGURES]


def _flat(group: Group, task: TaskMetrics) -> dict[str, Any]:
    """A group as one row of a CSV file; what is not known stays empty."""
    figures = {
        f"{metric.title} {part}": value
        for metric in task.table
        for part, value in zip(("mean", "std"), spread(group, metric), strict=True)
    }
    figures |= {figure.title: figure.of(group) for figure in FIGURES}
    failed = sum(run.error is not None for run in group.runs)
    return {**group.values, "n": len(group.finished), "planned": len(group.runs), "failed": failed, **figures}


def _group_json(group: Group, task: TaskMetrics) -> dict[str, Any]:
    spreads = {metric.title: dict(zip(("mean", "std"), spread(group, metric), strict=True)) for metric in task.table}
    runs = [
        {
            "folder": run.cell.name,
            "seed": run.config.get(SEED),
            "finished": run.results is not None,
            "error": run.error,
            **{metric.title: metric.percent(run.results or {}) for metric in task.table},
        }
        for run in group.runs
    ]
    figures = {figure.title: figure.of(group) for figure in FIGURES}
    return {"values": group.values, "metrics": spreads, "figures": figures, "runs": runs}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
