"""Tables of an experiment in Markdown, CSV and JSON. Each row is a group of runs that differ only in the seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from backbones.common.files import JsonObject, write_json, write_text
from tools.engine.recipes import DATA
from tools.experiments.cell_runs import CellRun
from tools.experiments.folds import describe_folds
from tools.experiments.groups import Group
from tools.experiments.plan import REPEATED
from tools.experiments.task_comparison import TaskComparison
from tools.runs.metrics import TaskMetrics

NOTES = (
    "Metrics are those of the delivered models: mean ± sample standard deviation over n runs (seeds, draws, folds). "
    "GFLOPs are multiply-adds of one image at its test size, images/s is the speed of training alone, memory is the "
    "peak of the process."
)
METHOD = (
    "Differences are in points; above 0 the second value is better. Their interval is Welch's over the seeds, with the "
    "variance over 1,000 resamples of the validation images added; all runs get the same resamples. With a single seed "
    "the interval covers the images only. Runs of several folds are paired by fold. Runs on several draws of the "
    "training images are paired by draw, and the interval covers draws, seeds and images. About one interval in twenty "
    "excludes zero by chance."
)

FOLDS = (
    "The t-interval over folds, of a mean or of differences, is corrected for overlapping training images (Nadeau and "
    "Bengio 2003)."
)

# Options that choose the images of a run. Metrics of runs that differ in them are not comparable.
DATA_OPTIONS = (*DATA, "train_split", "val_split", "limit", "fraction", "shots", "train_list", "list_percent")


@dataclass(frozen=True)
class CostColumn:
    """Column of a table for a cost: the mean, or the largest value, over the finished runs of a group.

    Attributes:
        read: returns the value of a run, or None if it is not known.
        form: format of the number.
    """

    title: str
    read: Callable[[CellRun], float | None]
    form: str
    largest: bool = False

    def of(self, group: Group) -> float | None:
        """Return a group's value in this column, or None if the cost is not known for any run."""
        values = [value for run in group.finished if (value := self.read(run)) is not None]
        return (max(values) if self.largest else mean(values)) if values else None


def _result(key: str, unit: float) -> Callable[[CellRun], float | None]:
    def read(run: CellRun) -> float | None:
        value = run.result(key)
        return None if value is None else value / unit

    return read


COST_COLUMNS = (
    CostColumn("parameters (M)", _result("parameters", 1e6), ".2f"),
    CostColumn("GFLOPs", _result("macs", 1e9), ".3f"),
    CostColumn("images/s", CellRun.images_per_second, ".1f"),
    CostColumn("memory (GiB)", _result("peak_memory", 2**30), ".2f", largest=True),
    CostColumn("minutes", CellRun.minutes, ".1f"),
)


def write_tables(folder: Path, tasks: Sequence[TaskComparison]) -> str:
    """Write table.md, table.csv and table.json.

    Returns:
        The text of table.md.

    Raises:
        UserError: the files cannot be written.
    """
    text = markdown(tasks)
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", as_csv(tasks))
    write_json(folder / "table.json", [as_json(task) for task in tasks])
    return text


def markdown(tasks: Sequence[TaskComparison]) -> str:
    """Return the tables in Markdown. Below each table, sentences name failed cells (runs) and differences."""
    parts, has_folds = [], False
    for task in tasks:
        heading = [f"## {task.name}"] if task.name else []
        failed = [f"- `{run.cell.name}` failed: {run.error}" for run in task.runs if run.error]
        described = [describe_folds(group, task.metrics.primary) for group in task.groups]
        means = [f"- {each}" for each in described if each]
        statements = [f"- {each.statement()}" for each in task.differences]
        parts += ["\n".join(block) for block in (heading, _markdown_rows(task), failed, means, statements) if block]
        has_folds |= bool(means)
    notes = [NOTES, *([METHOD] if any(task.differences for task in tasks) else []), *([FOLDS] if has_folds else [])]
    return "\n\n".join([*parts, " ".join(notes), ""])


def as_csv(tasks: Sequence[TaskComparison]) -> str:
    """Return the tables as CSV: means and standard deviations in separate columns, not rounded."""
    rows = [
        {"task": task.name, **_csv_row(group, task.metrics)} if task.name else _csv_row(group, task.metrics)
        for task in tasks
        for group in task.groups
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(task: TaskComparison) -> JsonObject:
    """Return the groups of a task, their runs, and the differences between groups as JSON values."""
    return {
        "task": task.name,
        "groups": [_group_json(group, task.metrics) for group in task.groups],
        "differences": [each.as_json() for each in task.differences],
    }


def _markdown_rows(task: TaskComparison) -> list[str]:
    axes = list(task.groups[0].values) if task.groups else []
    # The multiply-adds of a detector depend on its image, so its runs have none.
    costs = [column for column in COST_COLUMNS if any(column.of(group) is not None for group in task.groups)]
    head = [*axes, "n", *(metric.title for metric in task.metrics.table), *(column.title for column in costs)]
    rows = [
        [*group.values.values(), _seed_count(group), *_metric_cells(group, task.metrics), *_cost_cells(group, costs)]
        for group in task.groups
    ]
    rule = ["---"] * len(axes) + ["---:"] * (len(head) - len(axes))
    return [_markdown_row(cells) for cells in (head, rule, *rows)]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _seed_count(group: Group) -> str:
    done, planned, failed = len(group.finished), len(group.runs), _failed(group)
    count = str(done) if done == planned else f"{done} of {planned}"
    return f"{count}, {failed} failed" if failed else count


def _failed(group: Group) -> int:
    return sum(run.error is not None for run in group.runs)


def _metric_cells(group: Group, metrics: TaskMetrics) -> list[str]:
    spreads = (group.spread(metric) for metric in metrics.table)
    return ["" if mid is None else f"{mid:.2f}" if std is None else f"{mid:.2f} ± {std:.2f}" for mid, std in spreads]


def _cost_cells(group: Group, columns: Sequence[CostColumn]) -> list[str]:
    return ["" if (value := column.of(group)) is None else f"{value:{column.form}}" for column in columns]


def _csv_row(group: Group, metrics: TaskMetrics) -> dict[str, object]:
    """Return a group as a row of the CSV file. Unknown values are None, which CSV shows as empty."""
    spreads = {
        f"{metric.title} {part}": value
        for metric in metrics.table
        for part, value in zip(("mean", "std"), group.spread(metric), strict=True)
    }
    counts = {"n": len(group.finished), "planned": len(group.runs), "failed": _failed(group)}
    return {**group.values, **counts, **spreads, **_costs(group)}


def _costs(group: Group) -> dict[str, float | None]:
    return {column.title: column.of(group) for column in COST_COLUMNS}


def _group_json(group: Group, metrics: TaskMetrics) -> JsonObject:
    spreads = {metric.title: dict(zip(("mean", "std"), group.spread(metric), strict=True)) for metric in metrics.table}
    runs = [
        {
            "folder": run.cell.name,
            **{axis: run.config.get(axis) for axis in REPEATED},
            "finished": run.results is not None,
            "error": run.error,
            **{metric.title: metric.percent(run.results or {}) for metric in metrics.table},
        }
        for run in group.runs
    ]
    config = group.runs[0].config
    model = {option: config.get(option) for option in ("backbone", "weights")}
    data = {option: config[option] for option in DATA_OPTIONS if config.get(option) is not None}
    return {
        "values": group.values,
        "model": model,
        "data": data,
        "metrics": spreads,
        "figures": _costs(group),
        "runs": runs,
    }
