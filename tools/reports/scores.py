"""The chapter on the score from which detections count, and calibration after temperature scaling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hotcoco.metrics import calibration_curve

from backbones.common.files import JsonObject
from tools.evaluation.thresholds import BINS, IOU, calibration, scaled
from tools.reports.cells import fraction_cell, percent, text_cell, text_column
from tools.reports.charts import ChartSeries, line_chart
from tools.reports.page import (
    Block,
    FoldedBlocks,
    Paragraph,
    Section,
    SideBySide,
    SortableTable,
    TableCell,
    TableColumn,
)
from tools.runs.outcomes import BoxPredictions

GRID = np.linspace(0.01, 0.99, 99)  # scores at which the curves are drawn
MOST_CURVES = 6  # classes in the chart of one run
MOST_ROWS = 14  # of a table beside a chart; longer tables are folded


def scores_section(found: Sequence[BoxPredictions], *, count: int) -> Section:
    """Return the chapter with F1 over the score, and the best score of each class with its interval.

    Args:
        count: number of bootstrap resamples of the images; 0 for no intervals.
    """
    several, blocks = len(found) > 1, list[Block]()
    series = [ChartSeries(each.run.name, GRID, each.matched.whole.at(GRID), index) for index, each in enumerate(found)]
    if not several:
        curves = _class_series(found[0])
        whole = ChartSeries("all", GRID, found[0].matched.whole.at(GRID), 0)
        series = [whole, *curves] if len(curves) != 1 else curves
    chart = line_chart("F1 by score", series, x="least score", y="F1", bottom=0, top=1)
    tables = [_table(each, each.matched.best_scores(count), several=several) for each in found]
    shown = [table if len(table.rows) < MOST_ROWS else FoldedBlocks(table.caption, [table]) for table in tables]
    blocks.append(SideBySide([chart, shown[0]]))
    blocks += shown[1:]
    text = (
        f"F1 is the harmonic mean of precision and recall at IoU {IOU:g}, of the detections with at least a score. "
        "The best score has the highest F1 on these images; its interval is that of 95 % of random resamples of the "
        "images. A wide interval means that another score is as good. predict.py --score best uses the best "
        "scores of the run."
    )
    return Section("Which score", blocks, text)


def scaled_series(
    name: str, scores: np.ndarray, correct: np.ndarray, colour: int
) -> tuple[list[ChartSeries], list[Paragraph]]:
    """Return the dashed curve of scores after temperature scaling, and a sentence on it; both empty without scores."""
    found = calibration(scores, correct)
    if found["temperature"] is None:
        return [], []
    after = scaled(scores, found["temperature"])
    bins = [entry for entry in calibration_curve(after, correct, BINS) if entry["count"]]
    x, y = [entry["avg_confidence"] for entry in bins], [entry["avg_accuracy"] for entry in bins]
    text = (
        f"{name}: dividing the logits by a temperature of {found['temperature']:.2f} changes the expected calibration "
        f"error from {percent(found['ece'])} % to {percent(found['ece_scaled'])} % (dashed; fitted on the same "
        "images). The order of the scores stays the same."
    )
    return [ChartSeries(f"{name}, scaled", x, y, colour, dashed=True, dots=True)], [Paragraph(text)]


def _class_series(found: BoxPredictions) -> list[ChartSeries]:
    """Return the curves of the classes with most objects."""
    counts = found.matched.objects()
    chosen = sorted(counts, key=lambda name: -counts[name])[:MOST_CURVES]
    parts = found.matched.by_class
    return [ChartSeries(name, GRID, parts[name].at(GRID), index) for index, name in enumerate(chosen, start=1)]


def _table(found: BoxPredictions, best: JsonObject, *, several: bool) -> SortableTable:
    """Return the best score of all classes and of each class, with its F1 and interval."""
    columns = [text_column("class"), TableColumn("objects"), TableColumn("best score"), text_column("95 % interval")]
    columns.append(TableColumn("F1 in percent"))
    counts = found.matched.objects()
    entries = [("all", sum(counts.values()), best if best["score"] is not None else None)]
    entries += [(name, counts[name], entry) for name, entry in best["per_class"].items()]
    rows = [_row(name, number, entry) for name, number, entry in entries]
    return SortableTable(f"Best score{' of ' + found.run.name if several else ''}", columns, rows)


def _row(name: str, objects: int, entry: JsonObject | None) -> list[TableCell]:
    count = TableCell(f"{objects:,}", key=objects)
    if entry is None:
        return [text_cell(name), count, TableCell("n/a"), text_cell("n/a"), fraction_cell(None)]
    interval = "n/a" if entry["low"] is None else f"{entry['low']:.2f} to {entry['high']:.2f}"
    score = TableCell(f"{entry['score']:.3f}", key=entry["score"])
    return [text_cell(name), count, score, text_cell(interval), fraction_cell(entry["f1"])]
