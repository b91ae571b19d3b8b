"""Overlaps of detections with ground truth.

Detections are rows `[N, 7]`: image id, x, y, width, height, score, category id. Objects have the flag `iscrowd` in
place of the score.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def pairs(detections: np.ndarray, truth: np.ndarray, columns: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield groups of detections and objects that have equal values in `columns`, such as image and category."""
    _, keys = np.unique(np.vstack([detections[:, columns], truth[:, columns]]), axis=0, return_inverse=True)
    keys = keys.reshape(-1)  # some NumPy versions add a second axis
    groups = []
    for rows, key in ((detections, keys[: len(detections)]), (truth, keys[len(detections) :])):
        order = np.argsort(key, kind="stable")
        starts = np.searchsorted(key[order], np.arange(keys.max() + 2))
        groups.append((rows[order], starts))
    (left, left_starts), (right, right_starts) = groups
    for low, high, first, last in zip(left_starts, left_starts[1:], right_starts, right_starts[1:], strict=False):
        if low < high and first < last:
            yield left[low:high], right[first:last]


def iou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the IoU [N, M] of boxes [N, 4] and [M, 4], each x, y, width, height."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, :2] + left[:, None, 2:], right[None, :, :2] + right[None, :, 2:])
    common = (high - low).clip(min=0).prod(axis=2)
    union = left[:, 2:].prod(axis=1)[:, None] + right[:, 2:].prod(axis=1)[None] - common
    return common / np.maximum(union, 1e-12)
