"""Differences between runs on the same images, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tools.reports.page import Cell, Column, Section, Table, share, word
from tools.runs import bootstrap
from tools.runs.bootstrap import CONFIDENCE, SEED
from tools.runs.classification import Predictions
from tools.runs.detection import Matched
from tools.runs.segmentation import Maps


@dataclass(frozen=True)
class Difference:
    """One figure of two runs.

    Attributes:
        low, high: bounds of the difference; None without a bootstrap.
        smaller: whether smaller is better.
        plain: no fraction, so that it is not shown in percent.
    """

    name: str
    first: float | None
    other: float | None
    low: float | None
    high: float | None
    smaller: bool = False
    plain: bool = False


def detection_differences(first: Matched, other: Matched, *, resamples: int) -> list[Difference]:
    """The COCO figures, by hotcoco's bootstrap over the images."""
    from hotcoco import compare

    found = compare(first.full, other.full, n_bootstrap=resamples, seed=SEED, confidence=CONFIDENCE)
    bounds = found["ci"] or {}
    rows = []
    for name in found["metric_keys"]:
        known = first.run.results.get(name) is not None and other.run.results.get(name) is not None
        low, high = (bounds[name]["lower"], bounds[name]["upper"]) if known and name in bounds else (None, None)
        rows.append(Difference(name, first.run.results.get(name), other.run.results.get(name), low, high))
    return rows


def classification_differences(first: Predictions, other: Predictions, *, resamples: int) -> list[Difference]:
    """Accuracy and, where the runs kept them, top-5 accuracy and loss."""
    figures: list[tuple[str, np.ndarray, np.ndarray, bool]] = [
        ("top1", first.right.astype(float), other.right.astype(float), False)
    ]
    if first.rank is not None and other.rank is not None and len(first.classes) > 5:
        figures.append(("top5", (first.rank < 5).astype(float), (other.rank < 5).astype(float), False))
    if first.loss is not None and other.loss is not None:
        read = ~np.isnan(first.loss) & ~np.isnan(other.loss)
        figures.append(("nll", first.loss[read], other.loss[read], True))
    rows = []
    for name, a, b, smaller in figures:
        low, high = interval(len(a), lambda weights, d=b - a: weights @ d / len(d), resamples)  # type: ignore[misc]
        rows.append(Difference(name, float(a.mean()), float(b.mean()), low, high, smaller, plain=smaller))
    return rows


def segmentation_differences(first: Maps, other: Maps, *, resamples: int) -> list[Difference]:
    """Mean IoU, accuracy, and the IoU of each class."""
    names = list(first.run.results["per_class"])

    def figures(maps: Maps, weights: np.ndarray) -> np.ndarray:
        each = maps.ious(weights)
        pixels = (weights @ maps.common).sum() / max((weights @ maps.truth).sum(), 1)
        return np.array([np.nanmean(each) if not np.isnan(each).all() else np.nan, pixels, *each])

    ones = np.ones(len(first.rows))
    a, b = figures(first, ones), figures(other, ones)
    low, high = interval(len(ones), lambda weights: figures(other, weights) - figures(first, weights), resamples)
    titles = ("mIoU", "pixel_accuracy", *(f"IoU of {name}" for name in names))
    return [
        Difference(title, _known(a, place), _known(b, place), _known(low, place), _known(high, place))
        for place, title in enumerate(titles)
    ]


def interval(size: int, statistic: Callable[[np.ndarray], Any], resamples: int) -> tuple[Any, Any]:
    """Bounds of a statistic over `size` images drawn with replacement.

    Args:
        statistic: of how often each image counts `[size]`.
    """
    if not resamples or not size:
        return None, None
    return bootstrap.bounds(np.array([statistic(weights) for weights in bootstrap.resamples(size, resamples)]))


def differences_section(
    names: Sequence[str], tables: Sequence[Sequence[Difference]], *, images: int, resamples: int
) -> Section:
    """A table for each run against the first."""
    text = (
        f"Differences to {names[0]} on the same {images:,} images, in points. The interval holds "
        f"{100 * CONFIDENCE:.0f} % of {resamples:,} resamples of the images: it says how far the choice of test images "
        "matters, not how far another seed of training would. Coloured where it leaves out zero."
    )
    if not resamples:
        text = f"Differences to {names[0]} on the same {images:,} images, in points, without intervals."
    blocks = [_table(names[0], other, rows) for other, rows in zip(names[1:], tables, strict=True)]
    return Section("Differences", blocks, text)


def _table(first: str, other: str, rows: Sequence[Difference]) -> Table:
    titles = (first, other, "difference", "95 % interval")
    columns = [Column("figure", number=False), *(Column(title) for title in titles)]
    return Table(f"{other} against {first}", columns, [_row(row) for row in rows])


def _row(row: Difference) -> list[Cell]:
    values = [_plain(value) if row.plain else share(value) for value in (row.first, row.other)]
    if row.first is None or row.other is None:
        return [word(row.name), *values, Cell("n/a"), Cell("n/a")]
    change, scale = row.other - row.first, 1 if row.plain else 100
    digits = 4 if row.plain else 1
    if row.low is None or row.high is None:
        return [word(row.name), *values, Cell(signed(scale * change, digits), key=change), Cell("n/a")]
    low, high = (signed(scale * bound, digits) for bound in (row.low, row.high))
    sure = row.low > 0 or row.high < 0
    tone: Any = "" if not sure else "good" if (row.low > 0) != row.smaller else "bad"
    bounds = Cell(f"{low} to {high}", key=row.high - row.low)
    return [word(row.name), *values, Cell(signed(scale * change, digits), key=change, tone=tone), bounds]


def _plain(value: float | None) -> Cell:
    return Cell("n/a" if value is None else f"{value:.4f}", key=value)


def signed(value: float, digits: int) -> str:
    """With its sign, a minus as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _known(values: np.ndarray | None, place: int) -> float | None:
    return None if values is None or np.isnan(values[place]) else float(values[place])
