"""Checks and paints outlines of objects in COCO's format: polygons and run lengths."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from hotcoco import mask  # pycocotools' mask module crashes on malformed outlines

from backbones.common.coco import CompressedMask, RunLengths

# Polygons [[x, y, x, y, ...], ...], or run lengths {"size": [height, width], "counts": [...] or text}. The values come
# from a JSON file and are checked here.
Outline: TypeAlias = Sequence[object] | Mapping[str, object]

# A compressed run length has digits of five bits each. Six digits hold more pixels than an image has.
MOST_DIGITS = 6
MOST_PIXELS = 2**30  # of an image; OpenCV decodes no more


def blank(size: tuple[int, int]) -> np.ndarray:
    """Return a mask `[H, W]` bool without a pixel for an image of size (height, width).

    Raises:
        ValueError: no image can have the size.
    """
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"its image of {size[1]}x{size[0]} pixels is too large for a mask")
    return np.zeros(size, bool)


def paint(outline: Outline, size: tuple[int, int]) -> np.ndarray:
    """Paint an outline as a mask `[H, W]` bool for an image of size (height, width).

    Raises:
        ValueError: the outline is malformed, or made for an image of another size.
    """
    if isinstance(outline, Mapping):
        counts = checked_runs(outline, size).tolist()
        runs = mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    else:
        runs = mask.merge(mask.frPyObjects(_polygons(outline), *size))
    return np.asarray(mask.decode(runs)).astype(bool).reshape(size)


def checked_runs(outline: Mapping[str, object], size: tuple[int, int]) -> np.ndarray:
    """Check run lengths, which must fill an image of size (height, width), and return them as `[R]` int64.

    Raises:
        ValueError: they are malformed or do not fill the image.
    """
    if not outline.keys() >= {"size", "counts"}:
        raise ValueError("run lengths have a `size` and `counts`")
    if outline["size"] != list(size):
        raise ValueError(f"a mask of {reprlib.repr(outline['size'])} for an image of {list(size)}")
    given, pixels = outline["counts"], size[0] * size[1]
    counts = _whole(_array(given)) if not isinstance(given, str) else decompressed(given.encode("latin-1", "replace"))
    if counts.ndim != 1 or counts.dtype.kind != "i" or ((counts < 0) | (counts > pixels)).any():
        raise ValueError("`counts` is no list of pixel counts")
    if counts.sum() != pixels:
        raise ValueError(f"run lengths add up to {counts.sum()}, not {size[0]} x {size[1]}")
    return counts


def checked_polygon(polygon: object) -> np.ndarray:
    """Check a polygon and return its points `[N, 2]` float64, x and y in pixels.

    Raises:
        ValueError: the value is not a list of at least three points.
    """
    points = _array(polygon)
    numbers = points.ndim == 1 and points.dtype.kind in "if" and np.isfinite(points).all()
    if not numbers or len(points) < 6 or len(points) % 2:
        raise ValueError("a polygon is a list of at least three points: x, y, x, y, ...")
    return points.astype(np.float64).reshape(-1, 2)


def encode(outline: Outline, size: tuple[int, int]) -> bytes:
    """Return an outline as compressed run lengths for an image of size (height, width).

    Raises:
        ValueError: the outline is malformed, or made for an image of another size.
    """
    if isinstance(outline, Mapping):
        return compressed(checked_runs(outline, size))
    runs = mask.merge(mask.frPyObjects(_polygons(outline), *size))
    return bytes(runs["counts"])


def compressed(counts: np.ndarray) -> bytes:
    """Return run lengths `[R]` in COCO's compressed form."""
    size = [int(counts.sum()), 1]
    return bytes(mask.frPyObjects({"size": size, "counts": counts.tolist()}, *size)["counts"])


def encode_bitmap(bitmap: np.ndarray) -> CompressedMask:
    """Return the compressed run-length code of a bitmap `[H, W]` bool, as COCO's JSON files hold it."""
    code = mask.encode(np.asfortranarray(bitmap, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": bytes(code["counts"]).decode()}


def run_lengths(bitmap: np.ndarray) -> RunLengths:
    """Return a mask `[H, W]` bool as COCO's uncompressed run lengths."""
    flat = bitmap.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"counts": [0, *runs] if flat[0] else runs, "size": list(bitmap.shape)}


def box_of_mask(bitmap: np.ndarray) -> list[int]:
    """Return left, top, width and height of the box around the pixels of a mask, which must not be empty."""
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def _polygons(outline: Sequence[object]) -> list[list[float]]:
    """Check polygons. hotcoco cuts off what lies outside the image, at no cost for points far away."""
    if not outline:
        raise ValueError("an outline has at least one polygon")
    return [checked_polygon(polygon).ravel().tolist() for polygon in outline]


def _array(values: object) -> np.ndarray:
    """Convert a JSON value to an array. If its lists differ in length or depth, the array has no dimensions."""
    try:
        return np.array(values)
    except ValueError:
        return np.array(None)


def _whole(numbers: np.ndarray) -> np.ndarray:
    """Convert an array of whole numbers such as 3.0, which some tools write, to integers; return others unchanged."""
    if numbers.dtype.kind == "f" and np.isfinite(numbers).all() and (np.abs(numbers) < 2**53).all():
        return numbers.astype(np.int64) if (numbers == np.floor(numbers)).all() else numbers
    return numbers


def decompressed(text: bytes) -> np.ndarray:
    """Decode COCO's compressed run lengths to `[R]` int64, as `rleFrString` in COCO's API does.

    Each character is a digit of five bits and a continuation bit, the lowest digit first; the highest digit has a sign
    bit. From the fourth run on, a value is the difference to the run before the last one.
    """
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if ((digits < 0) | (digits > 63)).any() or (len(digits) and digits[-1] & 32):
        raise ValueError("`counts` is no compressed text, or cut short")
    if not len(digits):
        return digits
    # Find the first and last digit of each value; a last digit has no continuation bit.
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= MOST_DIGITS:
        raise ValueError("`counts` holds a run longer than an image")
    # Add up the digits of each value, shifted by their position in it.
    position = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((digits & 31) << 5 * position, first)
    # Apply the sign of the highest digit.
    values -= (digits[last] >> 4 & 1) << 5 * (last - first + 1)
    # Add up the differences, separately for background and object runs.
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values
