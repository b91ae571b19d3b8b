"""Masks of a data set's objects: read from COCO's `segmentation` fields, and packed for the data workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from hotcoco import mask

from backbones.common.outlines import decompressed, encode
from backbones.errors import UserError
from detection.data.truth import Truth
from detection.runs import encode_strips, strips_of_counts

WithoutMask = Literal["error", "box", "drop"]
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
        codes: compressed run lengths of each annotation; empty for crowds, which need no mask.
        kept: whether each annotation has a mask or needs none `[B]`.
    """

    codes: list[bytes]
    kept: np.ndarray


def read_masks(
    truth: Truth, sizes: np.ndarray, boxes: np.ndarray, needed: np.ndarray, without_mask: WithoutMask
) -> ReadMasks:
    """Read the masks of the annotations of a split.

    A mask is unusable if its `segmentation` is missing, malformed or made for an image of another size, or if it has no
    pixel in its box. A mask that reaches out of its box is counted in `truth.notes`.

    Args:
        sizes: height and width of each annotation's image `[B, 2]`.
        boxes: `[B, 4]` xyxy, inside the image.
        needed: which annotations need a mask `[B]`.
        without_mask: whether an object without a usable mask is an error, has its box as its mask, or is left out.

    Raises:
        UserError: an object has no usable mask, and `without_mask` is "error".
    """
    codes, faults = [b""] * len(needed), dict[int, str]()
    for index in np.flatnonzero(needed).tolist():
        try:
            codes[index] = _code(truth.data["annotations"][index].get("segmentation"), sizes[index])
        except ValueError as error:
            faults[index] = str(error)
    _compare_with_boxes(truth, codes, sizes, boxes, faults)
    kept = np.ones(len(needed), bool)
    if faults and without_mask == "error":
        first = min(faults)
        raise UserError(
            f"{': '.join(truth.locate(first))} has no usable mask: {faults[first]} ({len(faults)} such objects); fix "
            "the file, or pass --without-mask box or drop"
        )
    for index in faults:
        kept[index] = without_mask == "box"
        codes[index] = _box_code(boxes[index], sizes[index]) if kept[index] else b""
    if faults:
        what = "have their box as mask" if without_mask == "box" else "are left out"
        truth.notes[f"objects without a usable mask {what}"] += len(faults)
    return ReadMasks(codes, kept)


def _code(outline: object, size: np.ndarray) -> bytes:
    """Return the code of the field `segmentation` for an image of size (height, width).

    Raises:
        ValueError: it is missing or malformed.
    """
    if outline in (None, [], {}):
        raise ValueError("`segmentation` is missing or empty")
    if not isinstance(outline, (list, dict)):
        raise ValueError("`segmentation` is neither a list of polygons nor run lengths")
    return encode(outline, (int(size[0]), int(size[1])))


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
