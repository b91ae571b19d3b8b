"""Detections of any number of images as arrays, and their conversion from what models return."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from backbones.common.coco import CompressedMask, MaskResultRecord
from backbones.errors import UserError
from tools.evaluation.masks import Size, boxes, compress_all
from tools.evaluation.reading import CATEGORY, IMAGE, SCORE, H, W, X

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

    Values = Tensor | ArrayLike

BOX_DECIMALS, SCORE_DECIMALS = 3, 8  # rounding happens in `update`, so `detections()` writes exactly the scored values


@dataclass(frozen=True)
class Detections:
    """Detections of any number of images.

    Attributes:
        rows: `[N, 7]`: image id, x, y, width, height, score, category id.
        masks: N compressed run-length codes; empty if only boxes are evaluated.
    """

    rows: np.ndarray
    masks: list[CompressedMask] = field(default_factory=list)

    @classmethod
    def joined(cls, pieces: Sequence[Detections]) -> Detections:
        """Return the detections of all pieces, in their order."""
        if not pieces:
            return cls(np.empty((0, 7)))
        return cls(np.concatenate([each.rows for each in pieces]), [mask for each in pieces for mask in each.masks])

    def select(self, chosen: np.ndarray) -> Detections:
        """Return the detections that a boolean mask `[N]` or indices `[M]` select."""
        indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Detections(self.rows[indices], [self.masks[index] for index in indices] if self.masks else [])

    def by_image(self) -> Detections:
        """Return the detections ordered by image id. Within an image the order is kept, as it decides ties."""
        return self.select(np.argsort(self.rows[:, IMAGE], kind="stable"))

    def records(self) -> list[MaskResultRecord]:
        """Return the detections in COCO's results format: one dict per detection."""
        rows = self.rows
        images, categories = rows[:, IMAGE].astype(np.int64).tolist(), rows[:, CATEGORY].astype(np.int64).tolist()
        boxes, scores = rows[:, X : H + 1].tolist(), rows[:, SCORE].tolist()
        found: list[MaskResultRecord] = [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in zip(images, categories, boxes, scores, strict=True)
        ]
        for record, mask in zip(found, self.masks, strict=False):  # there are either all masks or none
            record["segmentation"] = mask
        return found


def from_prediction(
    prediction: Mapping[str, Values], image: int, category_ids: np.ndarray | None, size: Size | None
) -> Detections:
    """Return the detections of one image.

    Args:
        prediction: `boxes` [N, 4] (x1, y1, x2, y2 in pixels), `scores` [N], `labels` [N], and `rles` (N run-length
            codes) if masks are evaluated.
        image: id of the image.
        category_ids: category id by label, which counts from 1; None if labels are category ids.
        size: height and width of the image if masks are evaluated; else None.

    Raises:
        UserError: if a value is not finite, a label has no category, or a mask is missing or malformed.
    """
    boxes = _array(prediction["boxes"]).reshape(-1, 4)
    scores, labels = _array(prediction["scores"]), _array(prediction["labels"])
    if not (labels == np.round(labels)).all():
        raise UserError(f"image {image}: a predicted label is no integer; give labels from 1, or category ids")
    labels = labels.astype(np.int64)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise UserError(
            f"image {image}: a predicted box or score is NaN or infinite; check whether the training diverged"
        )
    rows = np.empty((len(boxes), 7))
    rows[:, IMAGE] = image
    rows[:, X:W] = boxes[:, :2].round(BOX_DECIMALS)
    rows[:, W : H + 1] = (boxes[:, 2:] - boxes[:, :2]).round(BOX_DECIMALS)
    rows[:, SCORE] = scores.round(SCORE_DECIMALS)
    rows[:, CATEGORY] = _categories(labels, image, category_ids)
    masks = [] if size is None else _masks(prediction, image, size, len(rows))
    return Detections(rows + 0.0, masks)  # + 0.0 turns -0.0 into 0.0, so that files do not contain -0.0


def with_masks(
    rows: np.ndarray, segmentations: Sequence[object], sizes: Mapping[int, Size], record_name: Callable[[int], str]
) -> Detections:
    """Return detections with their masks, which are checked. A row without a box gets the box of its mask.

    Args:
        rows: `[N, 7]`; the box of a row may be NaN.
        segmentations: N masks of any form.
        sizes: height and width by image id.
        record_name: returns file and record of the detection with a given index, for messages.

    Raises:
        UserError: a mask is malformed, or has another size than its image.
    """
    images = rows[:, IMAGE].astype(np.int64).tolist()
    masks = compress_all(segmentations, [sizes[image] for image in images], record_name)
    boxless = np.isnan(rows[:, X])
    rows[boxless, X : H + 1] = boxes([masks[index] for index in np.flatnonzero(boxless)])
    return Detections(rows, masks)


def image_id(value: Values) -> int:
    """Return an image id as an integer; refuse other values."""
    values = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if values.size != 1 or values.dtype.kind not in "iuf" or not float(values.item()).is_integer():
        raise UserError(f"update: `image_id` is {reprlib.repr(value)}, not an integer; give the id of the ground truth")
    return int(values.item())


def _masks(prediction: Mapping[str, Values], image: int, size: Size, count: int) -> list[CompressedMask]:
    given = prediction.get("rles")
    if not isinstance(given, Sequence) or len(given) != count:
        what = f"{len(given)} `rles`" if isinstance(given, Sequence) else "no `rles`"
        raise UserError(f"image {image}: the prediction has {what} for {count} boxes; give one mask per box")
    return compress_all(given, [size] * count, lambda index: f"image {image}: predicted mask {index}")


def _categories(labels: np.ndarray, image: int, category_ids: np.ndarray | None) -> np.ndarray:
    if category_ids is None:
        return labels
    count = len(category_ids)
    if len(labels) and not (labels.min() >= 1 and labels.max() <= count):
        raise UserError(
            f"image {image}: predicted labels are in {labels.min()}..{labels.max()}, but the ground truth has "
            f"{count} categories; use labels 1..{count}"
        )
    return category_ids[labels - 1]


def _array(value: Values) -> np.ndarray:
    """Convert a tensor of any device and precision, or an array-like value, to a float64 array."""
    if hasattr(value, "detach"):
        value = value.detach().double().cpu().numpy()
    return np.asarray(value, dtype=np.float64)
