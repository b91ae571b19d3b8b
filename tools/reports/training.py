"""The last chapters of every report: learning curves, options and cost of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeGuard

from backbones.common.files import JsonObject
from tools.reports.cells import count_cell, text_cell, text_column
from tools.reports.charts import ChartSeries, line_chart
from tools.reports.page import (
    Block,
    FoldedBlocks,
    Paragraph,
    Section,
    SideBySide,
    SortableTable,
    SvgChart,
    TableCell,
    TableColumn,
)
from tools.runs.folder import RunFolder
from tools.runs.log import evaluations, seconds_per_step
from tools.runs.metrics import TASK_METRICS

MISSING = "\N{EN DASH}"
LARGEST = 1e300  # larger numbers of a log are not drawn
STEEP = 30  # ratio of the largest to the smallest value from which an axis is logarithmic


def training_section(runs: Sequence[RunFolder]) -> Section:
    """Return the chapter with curves of losses, metrics and learning rate."""
    blocks: list[Block] = []
    charts = (_loss_chart(runs), _loss_terms_chart(runs), _metrics_chart(runs), _learning_rate_chart(runs))
    if drawn := [chart for chart in charts if chart is not None]:
        blocks.append(SideBySide(drawn))
    if names := [run.name for run in runs if not run.lines]:
        text = "the run folder has no metrics.jsonl (--eval-only writes none)"
        blocks.append(Paragraph(f"No curves of {', '.join(names)}: {text}."))
    return Section("Training", blocks)


def setup_section(runs: Sequence[RunFolder]) -> Section:
    """Return the chapter with options, environment and cost; options that differ between the runs come first."""
    blocks: list[Block] = []
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    if len(runs) > 1:
        differing = [n for n in names if n != "output" and len({_text(run.config.get(n, MISSING)) for run in runs}) > 1]
        if differing:
            blocks.append(_options_table("Options that differ", differing, runs))
        else:
            blocks.append(Paragraph("All options are equal."))
    blocks.append(_cost_table(runs))
    blocks.append(FoldedBlocks(f"All {len(names)} options", [_options_table("Options in config.yaml", names, runs)]))
    if old := [run.name for run in runs if "environment" not in run.results]:
        text = "the run was made before results.json recorded the environment"
        blocks.append(Paragraph(f"Unknown versions and device of {', '.join(old)}: {text}."))
    if bad := [f"{run.name}: {run.results['bad_images']}" for run in runs if run.results.get("bad_images")]:
        blocks.append(Paragraph(f"Skipped images that could not be read: {', '.join(bad)}.", warning=True))
    return Section("Setup", blocks)


def duration(seconds: float) -> str:
    """Return a time as text in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def _options_table(caption: str, names: Sequence[str], runs: Sequence[RunFolder]) -> SortableTable:
    rows = []
    for name in names:
        texts = [_text(run.config.get(name, MISSING)) for run in runs]
        rows.append([text_cell(name), *(TableCell(text, key=text, code=True) for text in texts)])
    return SortableTable(caption, [text_column("option"), *_value_columns(runs)], rows)


def _value_columns(runs: Sequence[RunFolder]) -> list[TableColumn]:
    return [text_column(run.name if len(runs) > 1 else "value") for run in runs]


def _cost_table(runs: Sequence[RunFolder]) -> SortableTable:
    """Return a table with a row for each cost and a column for each run."""
    memory = [run.results.get("peak_memory") for run in runs]
    costs: list[tuple[str, list[TableCell]]] = [
        ("parameters", [count_cell(run.results.get("parameters")) for run in runs]),
        ("multiply-adds per image", [count_cell(run.results.get("macs")) for run in runs]),
        ("peak memory, MB", [count_cell(round(each / 1e6) if _is_number(each) else None) for each in memory]),
        ("optimizer steps", [count_cell(max((line["step"] for line in run.lines), default=None)) for run in runs]),
        ("seconds per step", [_number_cell(seconds_per_step(run.lines)) for run in runs]),
        ("time from first to last log line", [_duration_cell(run) for run in runs]),
    ]
    environments = [run.results.get("environment") or {} for run in runs]
    for name in dict.fromkeys(name for each in environments for name in each):
        costs.append((name.replace("_", " "), [text_cell(_text(each.get(name, MISSING))) for each in environments]))
    rows = [
        [text_cell(name), *cells] for name, cells in costs if any(cell.text not in ("n/a", MISSING) for cell in cells)
    ]
    return SortableTable("Cost and environment", [text_column("item"), *_value_columns(runs)], rows)


def _loss_chart(runs: Sequence[RunFolder]) -> SvgChart | None:
    series = []
    single = len(runs) == 1
    for index, run in enumerate(runs):
        if points := _points(run.lines, "loss"):
            series.append(ChartSeries("training" if single else run.name, *points, colour=index))
        if points := _points(run.lines, "val_loss"):
            name = "validation" if single else f"{run.name}, validation"
            series.append(ChartSeries(name, *points, colour=1 if single else index, dashed=True, dots=True))
    return line_chart("Loss", series, x="optimizer step", y="loss", log=_is_steep(series)) if series else None


def _loss_terms_chart(runs: Sequence[RunFolder]) -> SvgChart | None:
    """Draw the loss terms of a single run; None if there are several runs or only one term."""
    if len(runs) > 1:
        return None
    lines = runs[0].lines
    names = sorted({name for line in lines for name in line if name.startswith("loss_")})
    series = [
        ChartSeries(name.removeprefix("loss_"), *points, colour=index)
        for index, name in enumerate(names)
        if (points := _points(lines, name))
    ]
    if len(series) < 2:
        return None
    return line_chart("Terms of the loss", series, x="optimizer step", y="loss", log=_is_steep(series))


def _metrics_chart(runs: Sequence[RunFolder]) -> SvgChart | None:
    """Draw the metrics of a single run over the epochs, or the first metric of several runs."""
    known = TASK_METRICS[runs[0].task].measured(run.results for run in runs)
    names = [metric.key for metric in known.curves]
    single = len(runs) == 1
    series = []
    for run_index, run in enumerate(runs):
        for index, name in enumerate(names if single else names[:1]):
            lines = [{**line, name: 100 * line[name]} for line in evaluations(run.lines) if _is_number(line.get(name))]
            if points := _points(lines, name, key="epoch"):
                colour = index if single else run_index
                series.append(ChartSeries(name if single else run.name, *points, colour=colour, dots=True))
    if not any(len(each.x) > 1 for each in series):  # a single evaluation makes no curve
        return None
    title = "Metrics by epoch" if single else f"{names[0]} on validation images"
    return line_chart(title, series, x="epoch", y="percent")


def _learning_rate_chart(runs: Sequence[RunFolder]) -> SvgChart | None:
    series = [
        ChartSeries("learning rate" if len(runs) == 1 else run.name, *points, colour=index)
        for index, run in enumerate(runs)
        if (points := _points(run.lines, "lr"))
    ]
    return line_chart("Learning rate", series, x="optimizer step", y="learning rate", bottom=0) if series else None


def _points(lines: Sequence[JsonObject], name: str, key: str = "step") -> tuple[list[float], list[float]] | None:
    """Return the values of `key` (x) and `name` (y) from all log lines that have both as numbers; None without any."""
    found = [(line[key], line[name]) for line in lines if _is_number(line.get(name)) and _is_number(line.get(key))]
    return ([x for x, _ in found], [y for _, y in found]) if found else None


def _is_steep(series: Sequence[ChartSeries]) -> bool:
    """Return whether curves span so wide a range that they need a logarithmic axis."""
    values = [value for each in series for value in each.y]
    return min(values) > 0 and max(values) / min(values) > STEEP


def _duration_cell(run: RunFolder) -> TableCell:
    if len(run.lines) < 2:
        return TableCell("n/a")
    seconds = run.lines[-1]["time"] - run.lines[0]["time"]
    return TableCell(duration(seconds), key=seconds)


def _number_cell(value: float | None) -> TableCell:
    return TableCell("n/a") if value is None else TableCell(f"{value:.3g}", key=value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return MISSING if value is None else json.dumps(value, ensure_ascii=False, default=str)
