"""Masks of a data set's objects: read from COCO's `segmentation` fields, and packed for the data workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from hotcoco import mask

from backbones.common.datasets import SIZES_READ
from backbones.common.images import MOST_PIXELS
from backbones.common.outlines import decompressed, encode
from backbones.errors import UserError
from detection.data.truth import Truth
from detection.runs import encode_strips, strips_of_counts

WithoutMask = Literal["error", "box", "drop", "keep"]
SLACK = 2.0  # pixels by which a mask may reach out of its box


@dataclass(frozen=True)
class PackedMasks:
    """Masks of B objects as COCO's compressed run lengths, in two arrays, which data workers share without copying.

    Attributes:
        text: codes of all objects, one after the other `[T]` uint8. A crowd has an empty code.
        ends: end of each object's code in `text`, after a 0 `[B + 1]`.
    """

    text: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, codes: Sequence[bytes]) -> PackedMasks:
        """Pack the codes of B objects."""
        ends = np.concatenate([[0], np.cumsum([len(code) for code in codes], dtype=np.int64)]).astype(np.int64)
        return cls(np.frombuffer(b"".join(codes), np.uint8), ends)

    def chosen(self, indices: np.ndarray) -> PackedMasks:
        """Return the masks of the objects at `indices` `[M]`."""
        return PackedMasks.of([self.text[self.ends[i] : self.ends[i + 1]].tobytes() for i in indices.tolist()])

    def strips(self, begin: int, end: int, height: int) -> np.ndarray:
        """Return the strips `[S, 5]` of the objects from `begin` to `end`, which count from 0, in their image.

        Args:
            height: of the image in pixels.
        """
        found = [np.zeros((0, 5), np.int32)]
        for owner, index in enumerate(range(begin, end)):
            code = self.text[self.ends[index] : self.ends[index + 1]].tobytes()
            own = strips_of_counts(decompressed(code), height)
            found.append(np.column_stack([np.full(len(own), owner, np.int32), own]))
        return np.concatenate(found)


@dataclass(frozen=True)
class ReadMasks:
    """Masks of all annotations of a split.

    Attributes:
        codes: compressed run lengths of each annotation; empty for crowds, which are not trained.
        kept: whether each annotation has a mask or needs none `[B]`.
        boxed: codes of the annotations whose mask is replaced by their box, by index.
        spoiled: indices of the annotations that have neither a box with an area nor a usable mask.
    """

    codes: list[bytes]
    kept: np.ndarray
    boxed: dict[int, bytes]
    spoiled: frozenset[int] = frozenset()

    def evaluated(self, truth: Truth, sizes: np.ndarray) -> Truth:
        """Return the records with the masks that evaluation compares with.

        Objects without a usable mask have their box as their mask, or are left out. Objects with a usable mask count
        even if their box has no area, as in COCO's evaluation. If nothing changes, `truth` itself is returned. If the
        file lacks sizes of images, the records have them.

        Args:
            sizes: height and width of each annotation's image `[B, 2]`.
        """
        if self.kept.all() and not self.boxed and not self.spoiled:
            return replace(truth, coco_file=None) if truth.notes[SIZES_READ] else truth
        records = []
        for index, record in enumerate(truth.data["annotations"]):
            if index in self.boxed:
                text = self.boxed[index].decode()
                record = {**record, "segmentation": {"size": sizes[index].tolist(), "counts": text}}
            if self.kept[index] and index not in self.spoiled:
                records.append(record)
        return replace(truth, data={**truth.data, "annotations": records}, coco_file=None)


def read_masks(
    truth: Truth, sizes: np.ndarray, boxes: np.ndarray, crowd: np.ndarray, usable: np.ndarray, without_mask: WithoutMask
) -> ReadMasks:
    """Read the masks of the annotations of a split.

    A mask is unusable if its `segmentation` is missing, malformed or made for an image of another size, or if it has no
    pixel in its box. A mask that reaches out of its box is counted in `truth.notes`. A crowd without a usable mask has
    its box as its mask.

    Args:
        sizes: height and width of each annotation's image `[B, 2]`.
        boxes: `[B, 4]` xyxy, inside the image.
        crowd: which annotations are crowds `[B]`.
        usable: which annotations have a box with an area `[B]`. The others are not trained.
        without_mask: whether an object without a usable mask is an error, has its box as its mask, is left out, or is
            kept without a mask.

    Raises:
        UserError: an object has no usable mask, and `without_mask` is "error".
    """
    codes, faults = [b""] * len(usable), dict[int, str]()
    for index in np.flatnonzero(usable).tolist():
        try:
            codes[index] = _code(truth.data["annotations"][index].get("segmentation"), sizes[index])
        except ValueError as error:
            faults[index] = str(error)
    _compare_with_boxes(truth, codes, sizes, boxes, faults)
    objects = [index for index in sorted(faults) if not crowd[index]]
    if objects and without_mask == "error":
        raise UserError(
            f"{': '.join(truth.locate(objects[0]))} has no usable mask: {faults[objects[0]]} ({len(objects)} such "
            "objects); fix the file, or pass --without-mask box or drop"
        )
    kept = np.ones(len(usable), bool)
    kept[objects] = without_mask in ("box", "keep")
    boxed = {index: _box_code(boxes[index], sizes[index]) for index in faults if kept[index] and without_mask != "keep"}
    if objects and without_mask != "keep":
        what = "have their box as mask" if without_mask == "box" else "are left out"
        truth.notes[f"objects without a usable mask {what}"] += len(objects)
    codes = [b"" if crowd[index] or not kept[index] else boxed.get(index, code) for index, code in enumerate(codes)]
    spoiled = _spoiled(truth, sizes, np.flatnonzero(~usable).tolist()) if without_mask != "keep" else frozenset()
    return ReadMasks(codes, kept, boxed, spoiled)


def _spoiled(truth: Truth, sizes: np.ndarray, indices: Sequence[int]) -> frozenset[int]:
    """Return which annotations have no usable mask, of those whose box has no area; count them."""
    found = set()
    for index in indices:
        try:
            code = _code(truth.data["annotations"][index].get("segmentation"), sizes[index])
            if not mask.area({"size": sizes[index].tolist(), "counts": code}):
                found.add(index)
        except ValueError:
            found.add(index)
    if found:
        truth.notes["objects with neither an area nor a usable mask are not evaluated"] += len(found)
    return frozenset(found)


def _code(outline: object, size: np.ndarray) -> bytes:
    """Return the code of the field `segmentation` for an image of size (height, width).

    Raises:
        ValueError: it is missing or malformed.
    """
    if outline in (None, [], {}):
        raise ValueError("`segmentation` is missing or empty")
    if not isinstance(outline, (list, dict)):
        raise ValueError("`segmentation` is neither a list of polygons nor run lengths")
    height, width = size.tolist()
    if height * width > MOST_PIXELS:
        raise ValueError(f"its image has {height}x{width} pixels, more than can be decoded")
    return encode(outline, (height, width))


def _compare_with_boxes(
    truth: Truth, codes: Sequence[bytes], sizes: np.ndarray, boxes: np.ndarray, faults: dict[int, str]
) -> None:
    """Add the masks without a pixel in their box to `faults`, and count the masks that reach out of their box."""
    given = [index for index, code in enumerate(codes) if code]
    if not given:
        return
    found = mask.toBbox([{"size": sizes[index].tolist(), "counts": codes[index]} for index in given])
    frames = np.asarray(found, np.float64).reshape(-1, 4)
    frames[:, 2:] += frames[:, :2]
    own = boxes[given]
    for index in np.flatnonzero(frames[:, 2] == frames[:, 0]):
        faults[given[index]] = "it has no pixel"
    shared = np.minimum(frames[:, 2:], own[:, 2:]) - np.maximum(frames[:, :2], own[:, :2])
    for index in np.flatnonzero((shared <= 0).any(axis=1)):
        faults.setdefault(given[index], "it has no pixel in its box")
    outside = np.concatenate([own[:, :2] - frames[:, :2], frames[:, 2:] - own[:, 2:]], axis=1).max(axis=1) > SLACK
    count = sum(given[index] not in faults for index in np.flatnonzero(outside))
    if count:
        truth.notes[f"masks reach more than {SLACK:.0f} pixels out of their box"] += count


def _box_code(box: np.ndarray, size: np.ndarray) -> bytes:
    """Return the code of all pixels that a box touches."""
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    height, width = size.tolist()
    return encode_strips(np.array([[left, right, top, bottom]]), (height, width))["counts"]
