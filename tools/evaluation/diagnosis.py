"""Explanations of COCO metrics that are zero or undefined.

The functions use plain arrays: truth rows [G, 7] (image, x, y, w, h, crowd, category) and detection rows [N, 7]
(image, x, y, w, h, score, category).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from backbones.common.coco import InstancesFile
from tools.evaluation.reading import CATEGORY, IMAGE, SCORE, H, W, X, Y
from tools.evaluation.summary import AREAS, METRICS, area_of

CROWD = SCORE  # column of truth rows
SUSPICIOUS = 0.05  # below this AP the boxes are examined
MOST = 0.5  # a heuristic applies if more than this fraction of the boxes fulfils it
SLACK = 2.0  # pixels by which a detection may leave its image


def truth_rows(truth: InstancesFile, images: set[int]) -> np.ndarray:
    """Return the ground truth of `images` as rows [G, 7]."""
    rows = [
        (record["image_id"], *record["bbox"], record["iscrowd"], record["category_id"])
        for record in truth["annotations"]
        if record["image_id"] in images
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def image_sizes(truth: InstancesFile) -> dict[int, tuple[float, float]]:
    """Return width and height by image id."""
    return {record["id"]: (record["width"], record["height"]) for record in truth["images"]}


def undefined_reasons(figures: Mapping[str, float | None], truth: np.ndarray) -> dict[str, str]:
    """Return, for each metric without a value, what the ground truth lacks."""
    return {name: _lacking(truth, area_of(name)) for name in METRICS if figures[name] is None}


def zero_reason(
    truth: np.ndarray, detections: np.ndarray, sizes: Mapping[int, tuple[float, float]], *, is_zero: bool
) -> str | None:
    """Return why AP is zero or close to zero; None if no cause is found.

    Args:
        is_zero: whether AP is exactly 0; then a cause is always returned.
    """
    if not len(detections):
        return "there are no detections on the scored images; check the score threshold and the label map"
    for check in (_no_common_image, _no_common_category):
        if reason := check(truth, detections):
            return reason
    return (
        _normalised(truth, detections)
        or _corners(detections, sizes)
        or (_poor_overlap(truth, detections) if is_zero else None)
    )


def score_warning(scores: np.ndarray) -> str | None:
    """Return a warning if several detections all have the same score."""
    if len(scores) > 1 and (scores == scores[0]).all():
        return f"all {len(scores)} scores are {scores[0]:g}: AP needs a ranking and uses the file's order"
    return None


def _lacking(truth: np.ndarray, area: str) -> str:
    if not len(truth):
        return "the ground truth of the scored images has no boxes"
    if truth[:, CROWD].all():
        return f"the ground truth of the scored images has only crowd regions ({len(truth)})"
    return f"no ground-truth object has an area {AREAS[area]}"


def _no_common_image(truth: np.ndarray, detections: np.ndarray) -> str | None:
    if np.isin(detections[:, IMAGE], truth[:, IMAGE]).any():
        return None
    here, there = _some(detections[:, IMAGE]), _some(truth[:, IMAGE])
    return f"no image with ground truth has detections: detections on {here}, ground truth on {there}"


def _no_common_category(truth: np.ndarray, detections: np.ndarray) -> str | None:
    if np.isin(detections[:, CATEGORY], truth[:, CATEGORY]).any():
        return None
    here, there = _some(detections[:, CATEGORY]), _some(truth[:, CATEGORY])
    return f"no category id in common: detections have {here}, the ground truth has {there}; check the label map"


def _normalised(truth: np.ndarray, detections: np.ndarray) -> str | None:
    boxes = detections[:, X : H + 1]
    if np.abs(boxes).max() <= 1.0 < np.abs(truth[:, X : H + 1]).max():
        return "the boxes look normalised (no value above 1); COCO needs pixels: multiply them by width and height"
    return None


def _corners(detections: np.ndarray, sizes: Mapping[int, tuple[float, float]]) -> str | None:
    """Recognise corners x1, y1, x2, y2: read as x, y, w, h they leave the image, read as corners they fit."""
    size = np.array([sizes.get(int(image), (0, 0)) for image in detections[:, IMAGE]])
    known = (size > 0).all(axis=1)
    if not known.any():
        return None
    rows, (width, height) = detections[known], size[known].T
    x, y, w, h = rows[:, X], rows[:, Y], rows[:, W], rows[:, H]
    beyond = (x + w > width + SLACK) | (y + h > height + SLACK)
    fits = (w >= x) & (h >= y) & (w <= width + SLACK) & (h <= height + SLACK)
    if beyond.mean() > MOST and fits.mean() > MOST and fits[beyond].mean() > MOST:
        percent = round(100 * float(beyond.mean()))
        form = "x, y, w, h"
        return f"the boxes look like x1, y1, x2, y2 ({percent} % leave their image as {form}); COCO needs {form}"
    return None


def _poor_overlap(truth: np.ndarray, detections: np.ndarray) -> str:
    """Report the best overlap of a detection and an object of the same image and category."""
    best = 0.0
    for here, there in _pairs(detections, truth[truth[:, CROWD] == 0]):
        best = max(best, float(iou(here[:, X : H + 1], there[:, X : H + 1]).max()))
    if best < 0.5:
        return f"all IoUs with the ground truth of the same image and category are below 0.5 (the best is {best:.2f})"
    return (
        f"the matching boxes (best IoU {best:.2f}) rank below the first 100 of their image and class, which alone count"
    )


def _pairs(detections: np.ndarray, truth: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield detections and ground truth of each image and category that has both. Sorting makes one pass sufficient."""
    columns = [IMAGE, CATEGORY]
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
    """Return the IoU [N, M] of boxes x, y, w, h."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, :2] + left[:, None, 2:], right[None, :, :2] + right[None, :, 2:])
    common = (high - low).clip(min=0).prod(axis=2)
    union = left[:, 2:].prod(axis=1)[:, None] + right[:, 2:].prod(axis=1)[None] - common
    return common / np.maximum(union, 1e-12)


def _some(ids: np.ndarray) -> str:
    distinct = np.unique(ids).astype(np.int64)
    return ", ".join(str(key) for key in distinct[:3]) + (", ..." if len(distinct) > 3 else "") or "none"
