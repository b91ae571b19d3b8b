"""Pairs of a detection and the object that its box finds, with the IoU of their boxes and of their masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from hotcoco import mask

from tools.evaluation.overlaps import iou

if TYPE_CHECKING:
    from hotcoco import COCOeval

LEAST_IOU = 0.5  # of the boxes of a pair


@dataclass(frozen=True)
class MaskPair:
    """A detection and the object of its class with the largest IoU of boxes.

    Attributes:
        image: id of the image.
        category: id of the category.
        box: of the object: x, y, width, height in pixels.
        found: mask of the detection, a compressed run-length code.
        true: mask of the object.
    """

    image: int
    category: int
    score: float
    box: tuple[float, float, float, float]
    box_iou: float
    mask_iou: float
    found: dict[str, object]
    true: dict[str, object]


def mask_pairs(evaluation: COCOeval, images: list[int], *, score: float) -> list[MaskPair]:
    """Return the pairs whose boxes have an IoU of at least 0.5. Crowds are left out.

    Args:
        evaluation: hotcoco's evaluation of masks.
        images: ids of the images.
        score: least score of the detections.
    """
    objects, detections = evaluation.coco_gt, evaluation.coco_dt
    pairs: list[MaskPair] = []
    for image in images:
        true = objects.load_anns(objects.get_ann_ids(img_ids=[image], iscrowd=False))
        found = [
            each for each in detections.load_anns(detections.get_ann_ids(img_ids=[image])) if each["score"] >= score
        ]
        if not true or not found:
            continue
        overlaps = iou(np.array([each["bbox"] for each in found]), np.array([each["bbox"] for each in true]))
        overlaps *= np.array([[a["category_id"] == b["category_id"] for b in true] for a in found])
        for index, best in enumerate(overlaps.argmax(axis=1).tolist()):
            if overlaps[index, best] < LEAST_IOU:
                continue
            codes = detections.ann_to_rle(found[index]), objects.ann_to_rle(true[best])
            mask_iou = float(mask.iou([codes[0]], [codes[1]], [0])[0, 0])
            x, y, w, h = true[best]["bbox"]
            key, own = found[index]["category_id"], found[index]["score"]
            pairs.append(MaskPair(image, key, own, (x, y, w, h), float(overlaps[index, best]), mask_iou, *codes))
    return pairs
