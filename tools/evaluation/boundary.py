"""Boundary AP: detections match objects by the IoU of masks and of their boundaries.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, section 5. The
boundary of a mask is the part of the mask within 2 % of the image's diagonal from its outline; the border of the image
is part of the outline. The smaller one of mask IoU and boundary IoU decides; for crowds mask IoU decides alone.
"""

from __future__ import annotations

import cv2
import numpy as np
from hotcoco import mask
from pycocotools import mask as reference
from pycocotools.cocoeval import COCOeval

from backbones.common.coco import CompressedMask
from tools.evaluation.masks import as_dicts

WIDTH = 0.02  # of the boundary, as a fraction of the image's diagonal
LEAST_IOU = 0.5  # COCO's smallest threshold: a pair with a lower mask IoU never matches


class BoundaryEval(COCOeval):  # type: ignore[misc]
    """pycocotools' evaluation of masks with the IoU of Boundary AP. `iouType` must be "segm"."""

    def iou(self, image: int, category: int) -> np.ndarray | list[float]:
        """Return the IoU `[D, G]` of the best detections and of the objects of an image and category."""
        objects, found = self._gts[image, category], self._dts[image, category]
        if not objects or not found:
            return []
        order = np.argsort([-each["score"] for each in found], kind="mergesort")[: self.params.maxDets[-1]]
        masks, true_masks = [found[index]["segmentation"] for index in order], [o["segmentation"] for o in objects]
        crowds = [int(each["iscrowd"]) for each in objects]
        ious = np.asarray(reference.iou(masks, true_masks, crowds))
        return smaller_ious(ious, masks, true_masks, np.array(crowds, dtype=bool))

    computeIoU = iou  # noqa: N815, pycocotools calls it by this name


def smaller_ious(
    ious: np.ndarray, masks: list[CompressedMask], true_masks: list[CompressedMask], crowds: np.ndarray
) -> np.ndarray:
    """Return the smaller one of mask IoU and boundary IoU `[D, G]`.

    Where mask IoU is below every threshold, or an object is a crowd, the result is mask IoU.

    Args:
        ious: mask IoU `[D, G]`.
        masks: D compressed run-length codes of detections.
        true_masks: G compressed run-length codes of objects.
        crowds: whether an object is a crowd `[G]`.
    """
    close = (ious >= LEAST_IOU) & ~crowds
    rows, columns = np.flatnonzero(close.any(axis=1)), np.flatnonzero(close.any(axis=0))
    if not len(rows):
        return ious
    of_masks, of_objects = (
        [boundary(given[index]) for index in chosen] for given, chosen in ((masks, rows), (true_masks, columns))
    )
    found = np.asarray(mask.iou(as_dicts(of_masks), as_dicts(of_objects), [0] * len(columns)))
    result = ious.copy()
    block = np.ix_(rows, columns)
    result[block] = np.where(close[block], np.minimum(ious[block], found), ious[block])
    return result


def boundary(code: CompressedMask) -> CompressedMask:
    """Return the boundary of a mask: its pixels that are near a pixel outside the mask or the image."""
    height, width = code["size"]
    x, y, w, h = (int(value) for value in mask.toBbox({**code}))
    pixels = np.asarray(mask.decode({**code}))[y : y + h, x : x + w]
    if not pixels.size:
        return code
    # A pixel outside the crop is background or outside the image, so a frame of background stands for all of them.
    steps = max(1, round(WIDTH * float(np.sqrt(height**2 + width**2))))
    framed = cv2.copyMakeBorder(np.ascontiguousarray(pixels), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1]
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[y : y + h, x : x + w] = pixels - inner
    return {"size": [height, width], "counts": mask.encode(whole)["counts"].decode()}
