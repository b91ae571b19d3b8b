"""What every report begins with: how the runs were made and how training went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tools.reports.charts import Series, line_chart
from tools.reports.page import Cell, Column, Folded, Note, Section, Side, Table, count, word
from tools.runs.folder import RunFolder
from tools.runs.log import evaluations, seconds_per_step
from tools.runs.metrics import TASK_METRICS

MISSING = "\N{EN DASH}"


def training_section(runs: Sequence[RunFolder]) -> Section:
    """Curves of loss, learning rate and figures."""
    blocks: list[Any] = []
    charts = [chart for chart in (_losses(runs), _parts(runs), _metrics(runs), _rates(runs)) if chart is not None]
    if charts:
        blocks.append(Side(charts))
    silent = [run.name for run in runs if not run.lines]
    if silent:
        blocks.append(Note(f"No metrics.jsonl, so no curves: {', '.join(silent)} (an evaluation alone leaves none)."))
    return Section("Training", blocks)


def setup_section(runs: Sequence[RunFolder]) -> Section:
    """Options, environment and cost; where several runs differ, that first."""
    blocks: list[Any] = []
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    if len(runs) > 1:
        odd = [n for n in names if n != "output" and len({_text(run.config.get(n, MISSING)) for run in runs}) > 1]
        if odd:
            blocks.append(_options("Options that differ", odd, runs))
        else:
            blocks.append(Note("All options are the same."))
    blocks.append(_cost(runs))
    blocks.append(Folded(f"All {len(names)} options", [_options("Options, as config.yaml has them", names, runs)]))
    lacking = [run.name for run in runs if "environment" not in run.results]
    if lacking:
        text = "made before results.json recorded the environment"
        blocks.append(Note(f"Versions and device are not known of: {', '.join(lacking)} ({text})."))
    bad = [f"{run.name}: {run.results['bad_images']}" for run in runs if run.results.get("bad_images")]
    if bad:
        blocks.append(Note(f"Images that could not be read, and were skipped: {', '.join(bad)}.", warning=True))
    return Section("Setup", blocks)


def duration(seconds: float) -> str:
    """A time for people."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def _options(caption: str, names: Sequence[str], runs: Sequence[RunFolder]) -> Table:
    columns = [Column("option", number=False), *_columns(runs)]
    rows = [
        [word(name), *(Cell(text := _text(run.config.get(name, MISSING)), key=text, code=True) for run in runs)]
        for name in names
    ]
    return Table(caption, columns, rows)


def _columns(runs: Sequence[RunFolder]) -> list[Column]:
    return [Column(run.name if len(runs) > 1 else "value", number=False) for run in runs]


def _cost(runs: Sequence[RunFolder]) -> Table:
    """A row a fact, a column a run."""
    facts: list[tuple[str, list[Cell]]] = [
        ("parameters", [count(run.results.get("parameters")) for run in runs]),
        ("multiply-adds an image", [count(run.results.get("macs")) for run in runs]),
        ("peak memory, MB", [count(_whole(run.results.get("peak_memory"), 1e6)) for run in runs]),
        ("optimizer steps", [count(max((line["step"] for line in run.lines), default=None)) for run in runs]),
        ("seconds a step", [_number(seconds_per_step(run.lines)) for run in runs]),
        ("first to last log line", [_span(run) for run in runs]),
    ]
    environments = [run.results.get("environment") or {} for run in runs]
    for name in dict.fromkeys(name for each in environments for name in each):
        facts.append((name.replace("_", " "), [word(_text(each.get(name, MISSING))) for each in environments]))
    columns = [Column("fact", number=False), *_columns(runs)]
    shown = [[word(name), *cells] for name, cells in facts if any(cell.text not in ("n/a", MISSING) for cell in cells)]
    return Table("Cost and environment", columns, shown)


def _losses(runs: Sequence[RunFolder]) -> Any:
    series = []
    for place, run in enumerate(runs):
        if points := _points(run.lines, "loss"):
            series.append(Series(run.name if len(runs) > 1 else "training", *points, colour=place))
        if points := _points(run.lines, "val_loss"):
            name = f"{run.name}, held out" if len(runs) > 1 else "held out"
            series.append(Series(name, *points, colour=place if len(runs) > 1 else 1, dashed=True, dots=True))
    return line_chart("Loss", series, x="optimizer step", y="loss", log=_steep(series)) if series else None


def _parts(runs: Sequence[RunFolder]) -> Any:
    """The terms of the loss, where there are several and one run."""
    if len(runs) > 1:
        return None
    lines = runs[0].lines
    names = sorted({name for line in lines for name in line if name.startswith("loss_")})
    series = [
        Series(name.removeprefix("loss_"), *points, colour=place)
        for place, name in enumerate(names)
        if (points := _points(lines, name))
    ]
    if len(series) < 2:
        return None
    return line_chart("Terms of the loss", series, x="optimizer step", y="loss", log=_steep(series))


def _metrics(runs: Sequence[RunFolder]) -> Any:
    names = [metric.key for metric in TASK_METRICS[runs[0].task].curves]
    series = []
    for place, run in enumerate(runs):
        for number, name in enumerate(names[:1] if len(runs) > 1 else names):
            lines = [{**line, name: 100 * line[name]} for line in evaluations(run.lines) if _is_number(line.get(name))]
            if points := _points(lines, name, key="epoch"):
                colour = place if len(runs) > 1 else number
                series.append(Series(run.name if len(runs) > 1 else name, *points, colour=colour, dots=True))
    if not any(len(each.x) > 1 for each in series):  # a single evaluation is no course
        return None
    title = f"{names[0]} on held-out images" if len(runs) > 1 else "Figures on held-out images"
    return line_chart(title, series, x="epoch", y="percent")


def _rates(runs: Sequence[RunFolder]) -> Any:
    found = [(place, run, points) for place, run in enumerate(runs) if (points := _points(run.lines, "lr"))]
    series = [Series(run.name if len(runs) > 1 else "rate", *points, colour=place) for place, run, points in found]
    return line_chart("Learning rate", series, x="optimizer step", y="rate", bottom=0) if series else None


def _points(lines: Sequence[dict[str, Any]], name: str, key: str = "step") -> tuple[list[float], list[float]] | None:
    found = [(line[key], line[name]) for line in lines if _is_number(line.get(name)) and _is_number(line.get(key))]
    return ([x for x, _ in found], [y for _, y in found]) if found else None


def _steep(series: Sequence[Series]) -> bool:
    """Whether the values span so much that only a logarithm shows them all."""
    values = [value for each in series for value in each.y]
    return min(values) > 0 and max(values) / min(values) > 30


def _span(run: RunFolder) -> Cell:
    if len(run.lines) < 2:
        return Cell("n/a")
    seconds = run.lines[-1]["time"] - run.lines[0]["time"]
    return Cell(duration(seconds), key=seconds)


def _number(value: float | None) -> Cell:
    return Cell("n/a") if value is None else Cell(f"{value:.3g}", key=value)


def _whole(value: Any, unit: float) -> int | None:
    return round(value / unit) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return MISSING if value is None else json.dumps(value, ensure_ascii=False, default=str)
