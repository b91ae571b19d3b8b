"""Pascal VOC's average precision at IoU 0.5, as its development kits compute it.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2. A detection is compared
with the object of its class that it overlaps most, even if another detection has already matched that object.
A detection on a difficult object does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from tools.evaluation.reading import CATEGORY, IMAGE, SCORE, H, W, X, Y

MIN_IOU = 0.5  # a detection with exactly this IoU matches, as in the kits
# Recall values of the metric until 2009, as the kits compute them: 0.30000000000000004 instead of 0.3, so that a recall
# of exactly 3/10 does not reach the fourth point.
POINTS = np.arange(0, 1.1, 0.1)


class VocMetrics(TypedDict):
    """VOC's average precision in 0..1, with eleven points (VOC2007) and with all points; None without objects."""

    VOC07: float | None
    VOC12: float | None


class VocFigures(VocMetrics):
    """VOC's average precision: the means over the classes, and the values of each class."""

    voc_per_class: list[VocMetrics]


def voc_figures(truth: np.ndarray, detections: np.ndarray, categories: Sequence[int]) -> VocFigures:
    """Compute VOC's eleven-point and all-point AP of each class, and their means over the classes with objects.

    Args:
        truth: rows `[G, 7]` of image id, x, y, width, height, 1 if difficult else 0, category id.
        detections: rows `[D, 7]` of image id, x, y, width, height, score, category id.
        categories: ids.

    Returns:
        The means, None if no class has an object, and `voc_per_class` in the order of `categories`.
    """
    classes = [
        _of_class(truth[truth[:, CATEGORY] == key], detections[detections[:, CATEGORY] == key]) for key in categories
    ]
    eleven, every = [each["VOC07"] for each in classes], [each["VOC12"] for each in classes]
    return {"VOC07": _mean(eleven), "VOC12": _mean(every), "voc_per_class": classes}


def average_precision(precision: np.ndarray, recall: np.ndarray) -> VocMetrics:
    """Compute eleven-point and all-point AP from precision and recall `[D]` after the first 1, 2, ..., D detections."""
    # The highest precision at this recall or a higher one; 0 beyond the last recall.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    indices = np.searchsorted(recall, POINTS, side="left")
    eleven = np.append(envelope, 0.0)[indices].mean()
    steps = np.diff(recall, prepend=0.0)
    return {"VOC07": float(eleven), "VOC12": float((steps * envelope).sum())}


def _of_class(truth: np.ndarray, detections: np.ndarray) -> VocMetrics:
    objects = int((truth[:, SCORE] == 0).sum())  # in truth rows the score column is 1 for difficult objects
    if not objects:
        return {"VOC07": None, "VOC12": None}
    detections = detections[np.argsort(-detections[:, SCORE], kind="stable")]
    hits = _hits(truth, detections)
    hits = hits[hits >= 0]
    found, tried = np.cumsum(hits), np.arange(1, len(hits) + 1)
    return average_precision(found / tried, found / objects)


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _hits(truth: np.ndarray, detections: np.ndarray) -> np.ndarray:
    """Match detections in order of score. Return `[D]`: 1 for a match, 0 for no match, -1 for a difficult object."""
    hits = np.zeros(len(detections), np.int64)
    best, overlap = _best_objects(truth, detections)
    enough = np.flatnonzero(overlap >= MIN_IOU)
    _, first = np.unique(best[enough], return_index=True)
    hits[enough[first]] = 1
    hits[enough[truth[best[enough], SCORE] != 0]] = -1
    return hits


def _best_objects(truth: np.ndarray, detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each detection index `[D]` and IoU `[D]` of its object with the largest IoU; -1 and 0 without one."""
    order = np.argsort(truth[:, IMAGE], kind="stable")
    images = truth[order, IMAGE]
    starts, ends = (np.searchsorted(images, detections[:, IMAGE], side=side) for side in ("left", "right"))
    best, overlap = np.full(len(detections), -1), np.zeros(len(detections))
    counts = ends - starts  # number of objects on the image of each detection
    owners = np.repeat(np.arange(len(detections)), counts)
    if not len(owners):
        return best, overlap
    firsts = np.cumsum(counts) - counts  # index of the first pair of each detection
    candidates = order[np.arange(len(owners)) - np.repeat(firsts - starts, counts)]
    overlaps = _iou(truth[candidates], detections[owners])
    some = counts > 0
    overlap[some] = np.maximum.reduceat(overlaps, firsts[some])
    top = np.flatnonzero(overlaps == overlap[owners])
    who, first = np.unique(owners[top], return_index=True)
    best[who] = candidates[top[first]]
    return best, overlap


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the IoU `[P]` of each pair of boxes, given as two arrays of rows `[P, 7]`.

    Widths count pixels, as in VOC: a box from x = 10 to x = 11 is 2 wide.
    """
    corner = np.maximum(one[:, [X, Y]], other[:, [X, Y]])
    end = np.minimum(one[:, [X, Y]] + one[:, [W, H]], other[:, [X, Y]] + other[:, [W, H]])
    shared = (end - corner).clip(min=0).prod(axis=1)
    union = one[:, W] * one[:, H] + other[:, W] * other[:, H] - shared
    return np.divide(shared, union, out=np.zeros(len(one)), where=union > 0)
