"""Finds places for the labels of boxes, so that they neither cover one another nor lie on the edges of other boxes."""

from __future__ import annotations

import numpy as np

LABEL_COST = 100.0  # of a covered pixel of another label, in covered pixels of edges
ALONG = (0.0, 1.0, 0.5, 0.25, 0.75)  # places along a side of a box, as fractions of the free length
MOST_HIDDEN = 0.25  # fraction of its own box that a label may cover at no cost


def place_labels(boxes: np.ndarray, sizes: np.ndarray, canvas: tuple[float, float], line: float = 2) -> np.ndarray:
    """Return the upper left corner `[N, 2]` (x, y) of each box's label.

    The places of a label are tried in a fixed order: above the box, inside at the top, below, inside at the bottom,
    right of the box, and left of it; each at one end of the side, at the other, and between. The label gets the first
    place that is free of earlier labels and of the edges of other boxes and does not hide its own box, or the one that
    covers least. A place that reaches out of the canvas is moved inside.

    Args:
        boxes: `[N, 4]` xyxy in pixels of the canvas. The labels of the first boxes get the best places.
        sizes: `[N, 2]` width and height of the labels.
        canvas: width and height.
        line: width of the boxes' edges.
    """
    boxes, sizes = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(sizes, np.float64).reshape(-1, 2)
    edges = _edges(boxes, line)
    placed = np.empty((0, 4))
    for number, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        tried = _candidates(box, size, np.asarray(canvas, np.float64))
        others = np.delete(edges, number, axis=0).reshape(-1, 4)
        cost = LABEL_COST * _overlap(tried, placed) + _overlap(tried, others)
        own = _overlap(tried, box[None])
        cost += np.where(own > MOST_HIDDEN * np.prod(box[2:] - box[:2]), own, 0)
        placed = np.concatenate([placed, tried[np.argmin(cost)][None]])  # argmin returns the first of equal ones
    return placed[:, :2]


def _candidates(box: np.ndarray, size: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Return the rectangles xyxy `[M, 4]` that a label of a size (width, height) may fill, the best ones first."""
    left, top, right, bottom = box
    width, height = size
    columns = [left + part * (right - width - left) for part in ALONG]
    rows = [top + part * (bottom - height - top) for part in ALONG]
    corners = [(x, y) for y in (top - height, top, bottom, bottom - height) for x in columns]
    corners += [(x, y) for x in (right, left - width) for y in rows]
    inside = np.clip(corners, 0, np.maximum(canvas - size, 0))
    return np.concatenate([inside, inside + size], axis=1)


def _edges(boxes: np.ndarray, line: float) -> np.ndarray:
    """Return the edges of boxes `[N, 4]` as rectangles xyxy `[N, 4, 4]`, drawn inside the boxes."""
    left, top, right, bottom = boxes.T
    return np.stack(
        [
            np.stack([left, top, right, top + line], axis=1),
            np.stack([left, bottom - line, right, bottom], axis=1),
            np.stack([left, top, left + line, bottom], axis=1),
            np.stack([right - line, top, right, bottom], axis=1),
        ],
        axis=1,
    )


def _overlap(ours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the area `[M]` of rectangles `[M, 4]` that other rectangles `[K, 4]` cover, summed over these."""
    # Leave out the rectangles that are beyond all of ours, which are most of them.
    others = others[((others[:, :2] < ours[:, 2:].max(0)) & (others[:, 2:] > ours[:, :2].min(0))).all(axis=1)]
    low = np.maximum(ours[:, None, :2], others[None, :, :2])
    high = np.minimum(ours[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(0).prod(axis=2).sum(axis=1)
