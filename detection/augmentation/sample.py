"""An image with its objects, and the operations that move all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from detection.runs import bitmaps, selected
from detection.runs import mirrored as mirrored_strips
from detection.strips import scaled, strips_of_bitmaps

FILL = (124, 116, 104)  # colour of pixels beyond the image: the mean of ImageNet
Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Sample:
    """An image with its objects and ignore regions.

    Attributes:
        image: `[H, W, 3]` RGB uint8.
        boxes: `[N, 4]` xyxy in pixels, float32.
        labels: class of each box `[N]`, from 1.
        crowd: which boxes are ignore regions `[N]`.
        strips: masks `[S, 5]` (see `detection.strips`); None if masks were not read. An object may have no mask.
        short_side: pixels that the model resizes to; None for the model's own size.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    strips: np.ndarray | None = None
    short_side: int | None = None

    @property
    def size(self) -> Size:
        """Return height and width of the image."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def masked(self) -> np.ndarray:
        """Return which objects have a mask `[N]`."""
        found = np.zeros(len(self.boxes), bool)
        if self.strips is not None:
            found[self.strips[:, 0]] = True
        return found

    def mask(self, index: int) -> tuple[int, int, np.ndarray]:
        """Return the mask of an object that has one: left and top of its frame, and the frame `[h, w]` uint8."""
        assert self.strips is not None
        left, top, right, bottom = self.frame(index)
        own = self.strips[self.strips[:, 0] == index] - np.array([index, left, left, top, top], np.int32)
        return left, top, bitmaps(own, 1, (bottom - top, right - left))[0]

    def frame(self, index: int) -> tuple[int, int, int, int]:
        """Return the smallest box xyxy around the mask of an object that has one."""
        assert self.strips is not None
        own = self.strips[self.strips[:, 0] == index]
        low, high = own[:, [1, 3]].min(axis=0), own[:, [2, 4]].max(axis=0)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def kept(self, indices: np.ndarray) -> Sample:
        """Return the sample with the objects at ascending `indices` only."""
        strips = None if self.strips is None else selected(self.strips, indices)
        return replace(
            self, boxes=self.boxes[indices], labels=self.labels[indices], crowd=self.crowd[indices], strips=strips
        )


def resized(sample: Sample, size: Size) -> Sample:
    """Resize a sample to (height, width). An object of whose mask no pixel is left is dropped."""
    if size == sample.size:
        return sample
    shrinks = size[0] * size[1] < sample.size[0] * sample.size[1]
    image = cv2.resize(sample.image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    ratio = np.array([size[1] / sample.size[1], size[0] / sample.size[0]] * 2, np.float32)
    strips = sample.strips
    if strips is not None:
        strips = scaled(torch.from_numpy(np.ascontiguousarray(strips)), sample.size, size).numpy()
    return without_emptied(sample.masked, replace(sample, image=image, boxes=sample.boxes * ratio, strips=strips))


def cropped(sample: Sample, left: int, top: int, size: Size) -> Sample:
    """Return the part of a sample with this corner and size (height, width), which lies inside the image.

    Boxes are cut at the edges. An object whose mask is cut gets the smallest box around the rest of its mask. Objects
    without a rest are dropped.
    """
    height, width = size
    if (left, top, size) == (0, 0, sample.size):
        return sample
    image = sample.image[top : top + height, left : left + width]
    moved = shifted(replace(sample, image=image), -left, -top)
    strips = moved.strips
    if strips is not None:
        limits = np.array([width, width, height, height], np.int32)
        inside = np.column_stack([strips[:, 0], strips[:, 1:].clip(0, limits)])
        inside = inside[(inside[:, 1] < inside[:, 2]) & (inside[:, 3] < inside[:, 4])]
        cut = _areas(strips, len(moved.boxes)) != _areas(inside, len(moved.boxes))
        moved = _framed(replace(moved, strips=inside), cut)
    boxes = moved.boxes.clip(0, np.array([width, height, width, height], np.float32))
    return _with_area(without_emptied(sample.masked, replace(moved, boxes=boxes)))


def blank(size: Size) -> np.ndarray:
    """Return an image `[H, W, 3]` of one colour, `FILL`."""
    row = np.tile(np.array(FILL, np.uint8), size[1])
    return np.tile(row, (size[0], 1)).reshape(*size, 3)  # copies rows; assigning a colour to each pixel is slow


def padded(sample: Sample, size: Size, left: int = 0, top: int = 0) -> Sample:
    """Place a sample on a larger canvas of size (height, width) with its corner at `left` and `top`."""
    if size == sample.size:
        return sample
    below, right = size[0] - top - sample.size[0], size[1] - left - sample.size[1]
    image = cv2.copyMakeBorder(sample.image, top, below, left, right, cv2.BORDER_CONSTANT, value=FILL)
    return shifted(replace(sample, image=image), left, top)


def mirrored(sample: Sample, image: np.ndarray) -> Sample:
    """Flip boxes and masks horizontally; `image` is the flipped image."""
    width = image.shape[1]
    left, top, right, bottom = sample.boxes.T
    boxes = np.stack([width - right, top, width - left, bottom], axis=1)
    strips = None if sample.strips is None else mirrored_strips(sample.strips, width)
    return replace(sample, image=image, boxes=boxes, strips=strips)


def upended(sample: Sample, image: np.ndarray) -> Sample:
    """Flip boxes and masks vertically; `image` is the flipped image."""
    height = image.shape[0]
    left, top, right, bottom = sample.boxes.T
    boxes = np.stack([left, height - bottom, right, height - top], axis=1)
    strips = sample.strips
    if strips is not None:
        owner, first, last, above, below = strips.T
        strips = np.stack([owner, first, last, height - below, height - above], axis=1)
    return replace(sample, image=image, boxes=boxes, strips=strips)


def joined(image: np.ndarray, samples: Sequence[Sample], short_side: int | None) -> Sample:
    """Return a sample of an image that was mixed from several samples, with the objects of all of them."""
    counts = np.cumsum([0, *(len(each.boxes) for each in samples)])
    strips = None
    if samples[0].strips is not None:
        moves = zip(samples, counts.tolist(), strict=False)
        parts = [each.strips + np.array([n, 0, 0, 0, 0], np.int32) for each, n in moves if each.strips is not None]
        strips = np.concatenate(parts).astype(np.int32)
    boxes, labels, crowd = (
        np.concatenate([getattr(each, name) for each in samples]) for name in ("boxes", "labels", "crowd")
    )
    return Sample(image, boxes, labels, crowd, strips, short_side)


def covered(sample: Sample, cover: np.ndarray, least_visible: float) -> Sample:
    """Remove covered pixels from the masks of a sample, and drop the objects that are hardly visible any more.

    The box of an object whose mask is cut becomes the smallest box around the rest. An object without a mask keeps its
    box. Ignore regions keep box and mask.

    Args:
        cover: covered pixels `[H, W]` bool.
        least_visible: an object is dropped if less than this fraction of its mask, or of its box if it has no mask,
            stays visible.
    """
    visible, strips, has_mask = np.ones(len(sample.boxes)), [], sample.masked
    for index, box in enumerate(sample.boxes):
        if sample.crowd[index]:
            if sample.strips is not None:
                strips.append(sample.strips[sample.strips[:, 0] == index])
            continue
        if not has_mask[index]:
            visible[index] = _uncovered(box, cover)
            continue
        left, top, mask = sample.mask(index)
        rest = mask * ~cover[top : top + mask.shape[0], left : left + mask.shape[1]]
        visible[index] = rest.sum() / mask.sum()
        own = strips_of_bitmaps(torch.from_numpy(rest[None])).numpy() + np.array([index, left, left, top, top])
        strips.append(own.astype(np.int32))
    if sample.strips is not None:
        strips.append(np.zeros((0, 5), np.int32))
        sample = _framed(replace(sample, strips=np.concatenate(strips)), has_mask & (visible < 1))
    return sample.kept(np.flatnonzero((visible >= least_visible) & (visible > 0)))


def without_emptied(had_mask: np.ndarray, sample: Sample) -> Sample:
    """Drop the objects that had a mask and have none any more."""
    emptied = had_mask & ~sample.masked
    return sample.kept(np.flatnonzero(~emptied)) if emptied.any() else sample


def shifted(sample: Sample, right: int, down: int) -> Sample:
    """Move boxes and masks by a number of pixels. The image stays."""
    boxes = sample.boxes + np.array([right, down, right, down], np.float32)
    strips = sample.strips
    if strips is not None:
        strips = (strips + np.array([0, right, right, down, down], np.int32)).astype(np.int32)
    return replace(sample, boxes=boxes, strips=strips)


def _areas(strips: np.ndarray, count: int) -> np.ndarray:
    """Return the number of pixels of each object's mask `[N]`."""
    owner, left, right, top, bottom = strips.T.astype(np.int64)
    return np.bincount(owner, (right - left) * (bottom - top), minlength=count)


def _framed(sample: Sample, chosen: np.ndarray) -> Sample:
    """Give the chosen objects `[N]` that have a mask the smallest box around it."""
    boxes = sample.boxes.copy()
    for index in np.flatnonzero(chosen & sample.masked).tolist():
        boxes[index] = sample.frame(index)
    return replace(sample, boxes=boxes)


def _with_area(sample: Sample) -> Sample:
    """Drop the objects whose box has no area."""
    sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).min(axis=1, initial=np.inf)
    return sample if (sides > 0).all() else sample.kept(np.flatnonzero(sides > 0))


def _uncovered(box: np.ndarray, cover: np.ndarray) -> float:
    """Return the fraction of the pixels of a box that are not covered."""
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    part = cover[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    return float(1 - part.mean()) if part.size else 1.0
