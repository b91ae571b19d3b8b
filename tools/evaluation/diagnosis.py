"""Explanations of COCO metrics that are zero or undefined.

The functions use plain arrays: truth rows [G, 7] (image, x, y, w, h, crowd, category) and detection rows [N, 7]
(image, x, y, w, h, score, category).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backbones.common.coco import InstancesFile
from backbones.errors import counted
from tools.evaluation.overlaps import iou, pairs
from tools.evaluation.reading import CATEGORY, IMAGE, SCORE, H, W, X, Y
from tools.evaluation.shifts import category_hint, some, unknown_hint
from tools.evaluation.summary import AREAS, IouType, area_of

CROWD = SCORE  # column of truth rows
SUSPICIOUS = 0.05  # below this AP the boxes are examined
MOST = 0.5  # a heuristic applies if more than this fraction of the boxes fulfils it
NO_OVERLAP: dict[IouType, str] = {  # why the AP of masks is zero, if the boxes do not tell
    "segm": "all IoUs of masks with the masks of the same image and category are below 0.5, or rank too low to count",
    "boundary": "no mask has an IoU of 0.5 or more, with its boundary too, with a mask of its image and category",
}
SLACK = 2.0  # pixels by which a detection may leave its image


def truth_rows(truth: InstancesFile, images: set[int]) -> np.ndarray:
    """Return the objects of `images` as an array [G, 7]: image id, x, y, width, height, iscrowd, category id."""
    rows = [
        (record["image_id"], *record["bbox"], record["iscrowd"], record["category_id"])
        for record in truth["annotations"]
        if record["image_id"] in images
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def image_sizes(truth: InstancesFile) -> dict[int, tuple[float, float]]:
    """Return width and height of the images in pixels, by image id."""
    return {record["id"]: (record["width"], record["height"]) for record in truth["images"]}


def undefined_reasons(figures: Mapping[str, float | None], truth: np.ndarray) -> dict[str, str]:
    """Return for each undefined metric what the ground truth lacks for it, such as "no small objects"."""
    return {name: _lacking(truth, area_of(name)) for name, value in figures.items() if value is None}


def zero_reason(
    truth: np.ndarray,
    detections: np.ndarray,
    sizes: Mapping[int, tuple[float, float]],
    categories: Sequence[int],
    *,
    is_zero: bool,
) -> str | None:
    """Return why AP is zero or close to zero, as text; None if no cause is found.

    Args:
        sizes: width and height by image id.
        categories: ids of the ground truth's categories, ascending.
        is_zero: whether AP is exactly 0; then a cause is always returned.
    """
    if not len(detections):
        return "there are no detections on the scored images; check the score threshold and the label map"
    return (
        _no_common_image(truth, detections)
        or category_hint(truth, detections, categories)
        or _no_common_category(truth, detections)
        or _normalised(truth, detections)
        or _corners(detections, sizes)
        or (_poor_overlap(truth, detections) if is_zero else None)
    )


def score_warning(scores: np.ndarray) -> str | None:
    """Return a warning if there are several detections and all have the same score; else None."""
    if len(scores) > 1 and (scores == scores[0]).all():
        return f"all {len(scores)} scores are {scores[0]:g}: AP needs a ranking and uses the file's order"
    return None


def unknown_categories(rows: np.ndarray, known: Sequence[int]) -> str | None:
    """Return a warning if detections have categories that the ground truth lacks, which are ignored; else None.

    Args:
        rows: detections `[N, 7]` on the scored images.
        known: ids of the ground truth's categories.
    """
    given = rows[:, CATEGORY].astype(np.int64)
    unknown = given[~np.isin(given, list(known))]
    if not len(unknown):
        return None
    text = f"{len(unknown)} of {len(given)} detections have categories that the ground truth does not have"
    return f"{text} ({some(unknown)}) and are ignored{unknown_hint(set(given.tolist()), known)}"


def crowded_warning(crowded: Mapping[tuple[int, int], int], categories: Mapping[int, str], most: int) -> str | None:
    """Return a warning if images have more objects of a class than the `most` detections that count; else None.

    Args:
        crowded: number of objects by image id and category id, where it exceeds `most`.
        categories: names by id.
    """
    if not crowded:
        return None
    (image, category), count = max(crowded.items(), key=lambda entry: entry[1])
    images = len({key for key, _ in crowded})
    text = f"image {image} has {counted(count, 'object')} of class {categories[category]}"
    text += f" ({images} such images)" if images > 1 else ""
    return f"{text}, but only the {most} best detections of an image and class count; raise --max-detections"


def _lacking(truth: np.ndarray, area: str) -> str:
    if not len(truth):
        return "the ground truth of the scored images has no boxes"
    if truth[:, CROWD].all():
        return f"the ground truth of the scored images has only crowd regions ({len(truth)})"
    return f"no ground-truth object has an area {AREAS[area]}"


def _no_common_image(truth: np.ndarray, detections: np.ndarray) -> str | None:
    if np.isin(detections[:, IMAGE], truth[:, IMAGE]).any():
        return None
    here, there = some(detections[:, IMAGE]), some(truth[:, IMAGE])
    return f"no image with ground truth has detections: detections on {here}, ground truth on {there}"


def _no_common_category(truth: np.ndarray, detections: np.ndarray) -> str | None:
    if np.isin(detections[:, CATEGORY], truth[:, CATEGORY]).any():
        return None
    here, there = some(detections[:, CATEGORY]), some(truth[:, CATEGORY])
    return f"no category id in common: detections have {here}, the ground truth has {there}; check the label map"


def _normalised(truth: np.ndarray, detections: np.ndarray) -> str | None:
    boxes = detections[:, X : H + 1]
    if np.abs(boxes).max() <= 1.0 < np.abs(truth[:, X : H + 1]).max():
        return "the boxes look normalised (no value above 1); COCO needs pixels: multiply them by width and height"
    return None


def _corners(detections: np.ndarray, sizes: Mapping[int, tuple[float, float]]) -> str | None:
    """Return a hint if boxes seem to be corners x1, y1, x2, y2, because as x, y, w, h they leave the image."""
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
    """Return a text with the best IoU of a detection and an object of the same image and category."""
    best = 0.0
    for here, there in pairs(detections, truth[truth[:, CROWD] == 0], [IMAGE, CATEGORY]):
        best = max(best, float(iou(here[:, X : H + 1], there[:, X : H + 1]).max()))
    if best < 0.5:
        return f"all IoUs with the ground truth of the same image and category are below 0.5 (the best is {best:.2f})"
    return (
        f"the matching boxes (best IoU {best:.2f}) rank below those of their image and class that count "
        "(--max-detections)"
    )
