"""Why an AP is 0 or undefined: the usual mistakes, told apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.coco_input import CATEGORY, HEIGHT, IMAGE, SCORE, WIDTH, X, Y

AREA_RANGES = {"small": "below 32x32 pixels", "medium": "between 32x32 and 96x96 pixels", "large": "above 96x96 pixels"}
MOST = 0.9  # share of the boxes that must speak for a suspicion


def why_undefined(metric: str, area: str, truth: dict[str, Any]) -> str:
    """Why a figure has no value: there is no truth that it could be measured on."""
    if not truth["annotations"]:
        return "the annotations hold no box"
    if all(annotation["iscrowd"] for annotation in truth["annotations"]):
        return "the annotations hold only crowd regions, which are not counted"
    if area in AREA_RANGES:
        return f"the annotations hold no {area} object ({AREA_RANGES[area]})"
    return "no object of the annotations is counted (all are ignored, or of categories that the file does not list)"


def why_zero(rows: np.ndarray, truth: dict[str, Any], ap50: float | None) -> str:
    """The likeliest cause of AP 0."""
    if not len(rows):
        return "there are no detections at all"
    categories = {annotation["category_id"] for annotation in truth["annotations"]}
    found = set(np.unique(rows[:, CATEGORY]).astype(int).tolist())
    if not categories & found:
        return (
            f"no detection has a category of the annotations: detections have ids {_some(found)}, "
            f"the annotations {_some(categories)}"
        )
    if (rows[:, X : HEIGHT + 1] <= 1).all():
        return "all boxes lie within 0..1: they look like fractions of the image, COCO boxes are in pixels"
    if _look_like_corners(rows, truth):
        return "the boxes look like corners [x1, y1, x2, y2]; COCO boxes are [x, y, width, height]"
    if (rows[:, WIDTH : HEIGHT + 1] <= 0).any(axis=1).mean() > MOST:
        return "most boxes have no area"
    where = set(np.unique(rows[:, IMAGE]).astype(int).tolist())
    if not where & {annotation["image_id"] for annotation in truth["annotations"]}:
        return "no image with detections has an object in the annotations"
    if len(rows) > 1 and np.ptp(rows[:, SCORE]) == 0:
        return f"all detections have the score {rows[0, SCORE]:g}, so right and wrong ones cannot be ranked"
    if not ap50:
        return "no detection overlaps an object of its category with an IoU of 0.5 or more"
    return "the overlaps are too small for the higher IoU thresholds"


def _look_like_corners(rows: np.ndarray, truth: dict[str, Any]) -> bool:
    """Whether most boxes stick out of their image as [x, y, w, h], but fit as [x1, y1, x2, y2]."""
    sizes = {image["id"]: (image.get("width", 0), image.get("height", 0)) for image in truth["images"]}
    limits = np.array([sizes[int(image)] for image in rows[:, IMAGE]], dtype=np.float64)
    far = rows[:, [X, Y]] + rows[:, [WIDTH, HEIGHT]]
    sticks_out = (far > limits * 1.02).any(axis=1)
    fits = (rows[:, [WIDTH, HEIGHT]] <= limits * 1.02).all(axis=1) & (rows[:, [WIDTH, HEIGHT]] >= rows[:, [X, Y]]).all(
        axis=1
    )
    return bool(fits.mean() > MOST and sticks_out.mean() > 0.3)


def _some(ids: set[int]) -> str:
    shown = sorted(ids)
    return ", ".join(str(value) for value in shown[:5]) + (", ..." if len(shown) > 5 else "")
