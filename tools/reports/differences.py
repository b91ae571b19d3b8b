"""Differences in metrics between runs on the same images, with confidence intervals by bootstrap over the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from backbones.errors import counted
from tools.evaluation.resampling import SEED
from tools.reports.cells import fraction_cell, text_cell, text_column
from tools.reports.page import Section, SortableTable, TableCell, TableColumn
from tools.runs.bootstrap import CONFIDENCE, interval

if TYPE_CHECKING:
    from tools.runs.classification import ClassPredictions
    from tools.runs.outcomes import BoxPredictions
    from tools.runs.segmentation import MaskPredictions


@dataclass(frozen=True)
class MetricDifference:
    """Values of one metric in two runs, with the confidence interval of their difference.

    Attributes:
        first: value of the metric in the first run; None if unknown.
        other: value of the metric in the other run; None if unknown.
        low: lower bound of other - first; None without a bootstrap.
        high: upper bound of other - first; None without a bootstrap.
        smaller_is_better: whether a negative difference is an improvement.
        is_fraction: whether the metric is a fraction, shown in percent.
    """

    name: str
    first: float | None
    other: float | None
    low: float | None
    high: float | None
    smaller_is_better: bool = False
    is_fraction: bool = True


def detection_differences(first: BoxPredictions, other: BoxPredictions, *, resamples: int) -> list[MetricDifference]:
    """Return the differences between two runs in COCO's metrics, with intervals by hotcoco's bootstrap."""
    from hotcoco import compare

    found = compare(first.evaluation, other.evaluation, n_bootstrap=resamples, seed=SEED, confidence=CONFIDENCE)
    bounds = found["ci"] or {}
    rows = []
    for name in found["metric_keys"]:
        values = first.run.results.get(name), other.run.results.get(name)
        known = None not in values and name in bounds
        low, high = (bounds[name]["lower"], bounds[name]["upper"]) if known else (None, None)
        rows.append(MetricDifference(name, *values, low, high))
    return rows


def classification_differences(
    first: ClassPredictions, other: ClassPredictions, *, resamples: int
) -> list[MetricDifference]:
    """Return the differences in top-1 accuracy; also in top-5 accuracy and loss, if both runs recorded them."""
    rows = [_mean_difference("top1", first.correct.astype(float), other.correct.astype(float), resamples=resamples)]
    if first.rank is not None and other.rank is not None and len(first.classes) > 5:
        top5 = [(rank < 5).astype(float) for rank in (first.rank, other.rank)]
        rows.append(_mean_difference("top5", *top5, resamples=resamples))
    if first.loss is not None and other.loss is not None:
        known = ~np.isnan(first.loss) & ~np.isnan(other.loss)
        losses = first.loss[known], other.loss[known]
        rows.append(_mean_difference("nll", *losses, resamples=resamples, is_loss=True))
    return rows


def segmentation_differences(
    first: MaskPredictions, other: MaskPredictions, *, resamples: int
) -> list[MetricDifference]:
    """Return the differences between two runs in mIoU, in pixel accuracy, and in the IoU of each class."""

    def metrics(predictions: MaskPredictions, weights: np.ndarray) -> np.ndarray:
        ious = predictions.class_ious(weights)
        pixels = (weights @ predictions.intersections).sum() / max((weights @ predictions.true_pixels).sum(), 1)
        return np.array([np.nanmean(ious) if not np.isnan(ious).all() else np.nan, pixels, *ious])

    size = len(first.rows)
    a, b = metrics(first, np.ones(size)), metrics(other, np.ones(size))
    low, high = interval(lambda weights: metrics(other, weights) - metrics(first, weights), size=size, count=resamples)
    names = ("mIoU", "pixel_accuracy", *(f"IoU of {name}" for name in first.run.classes))
    return [
        MetricDifference(name, _known(a, index), _known(b, index), _known(low, index), _known(high, index))
        for index, name in enumerate(names)
    ]


def differences_section(
    names: Sequence[str], tables: Sequence[Sequence[MetricDifference]], *, images: int, resamples: int
) -> Section:
    """Return the chapter that compares each run after the first with the first, one table per run.

    Args:
        names: names of the runs.
        tables: for each run after the first, its differences from the first run.
        images: number of images.
        resamples: number of bootstrap resamples; 0 for no intervals.
    """
    text = f"Differences from {names[0]} on the same {counted(images, 'image')}, in percentage points."
    if resamples:
        text += (
            f" Each interval holds {100 * CONFIDENCE:.0f} % of {resamples:,} bootstrap resamples of the images. It "
            "shows how far the difference depends on the choice of the images, not how far it depends on the random "
            "seed of training. A difference is coloured if its interval excludes zero."
        )
    else:
        text += " Without bootstrap there are no intervals."
    blocks = [_table(names[0], name, rows) for name, rows in zip(names[1:], tables, strict=True)]
    return Section("Differences", blocks, text)


def signed(value: float, digits: int) -> str:
    """Return a number with its sign. The minus sign is as wide as the plus sign."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _mean_difference(
    name: str, first: np.ndarray, other: np.ndarray, *, resamples: int, is_loss: bool = False
) -> MetricDifference:
    """Compare the mean of a value per image between two runs, given the values `[N]` of both."""
    change = other - first
    low, high = interval(lambda weights: weights @ change / len(change), size=len(change), count=resamples)
    return MetricDifference(
        name,
        float(first.mean()),
        float(other.mean()),
        None if low is None else float(low),
        None if high is None else float(high),
        smaller_is_better=is_loss,
        is_fraction=not is_loss,
    )


def _table(first: str, other: str, rows: Sequence[MetricDifference]) -> SortableTable:
    titles = (first, other, "difference", f"{CONFIDENCE:.0%} interval".replace("%", " %"))
    columns = [text_column("metric"), *map(TableColumn, titles)]
    return SortableTable(f"{other} against {first}", columns, [_row(row) for row in rows])


def _row(row: MetricDifference) -> list[TableCell]:
    values = [fraction_cell(value) if row.is_fraction else _number_cell(value) for value in (row.first, row.other)]
    cells = [text_cell(row.name), *values]
    if row.first is None or row.other is None:
        return [*cells, TableCell("n/a"), TableCell("n/a")]
    scale, digits = (100, 1) if row.is_fraction else (1, 4)
    change = row.other - row.first
    text = signed(scale * change, digits)
    if row.low is None or row.high is None:
        return [*cells, TableCell(text, key=change), TableCell("n/a")]
    bounds = f"{signed(scale * row.low, digits)} to {signed(scale * row.high, digits)}"
    return [*cells, TableCell(text, key=change, tone=_tone(row)), TableCell(bounds, key=row.high - row.low)]


def _tone(row: MetricDifference) -> Literal["", "good", "bad"]:
    """Return "good" if the interval shows an improvement, "bad" if it shows a deterioration, "" otherwise."""
    if row.low is None or row.high is None or row.low <= 0 <= row.high:
        return ""
    return "good" if (row.low > 0) != row.smaller_is_better else "bad"


def _number_cell(value: float | None) -> TableCell:
    return TableCell("n/a" if value is None else f"{value:.4f}", key=value)


def _known(values: np.ndarray | None, index: int) -> float | None:
    return None if values is None or np.isnan(values[index]) else float(values[index])
