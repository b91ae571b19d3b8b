"""Outlines of instances as COCO writes them: polygons and run lengths, checked and painted."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

MOST_DIGITS = 6  # of five bits each, in a compressed run length; more than an image has pixels


def paint(outline: list[Any] | dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """`[H, W]` bool of polygons `[[x, y, ...], ...]` or of run lengths, plain or compressed.

    Raises:
        ValueError: where the outline is malformed or of another size.
    """
    from hotcoco import mask  # not pycocotools' mask, which crashes on malformed outlines

    if isinstance(outline, dict):
        counts = checked_runs(outline, size).tolist()
        runs = mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    else:
        polygons = [checked_polygon(polygon).clip(*_reach(size)).ravel().tolist() for polygon in outline]
        runs = mask.merge(mask.frPyObjects(polygons, *size))
    return np.asarray(mask.decode(runs)).astype(bool).reshape(size)


def checked_runs(outline: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Run lengths `[R]`, background first, that fill an image of (height, width) column by column.

    Raises:
        ValueError: where they do not.
    """
    if not outline.keys() >= {"size", "counts"}:
        raise ValueError("run lengths have a `size` and `counts`")
    if outline["size"] != list(size):
        raise ValueError(f"a mask of {reprlib.repr(outline['size'])} for an image of {list(size)}")
    given, pixels = outline["counts"], size[0] * size[1]
    counts = _decompressed(given) if isinstance(given, str) else _array(given)
    if counts.ndim != 1 or counts.dtype.kind != "i" or ((counts < 0) | (counts > pixels)).any():
        raise ValueError("`counts` is no list of pixel counts")
    if counts.sum() != pixels:
        raise ValueError(f"run lengths add up to {counts.sum()}, not {size[0]} x {size[1]}")
    return counts


def checked_polygon(polygon: Any) -> np.ndarray:
    """A polygon's points `[N, 2]`, x and y.

    Raises:
        ValueError: where it is no list of three points or more.
    """
    points = _array(polygon)
    numbers = points.ndim == 1 and points.dtype.kind in "if" and np.isfinite(points).all()
    if not numbers or len(points) < 6 or len(points) % 2:
        raise ValueError("a polygon is a list of at least three points: x, y, x, y, ...")
    return points.astype(np.float64).reshape(-1, 2)


def _array(values: Any) -> np.ndarray:
    """Values as JSON has them; without dimensions where they are no table."""
    try:
        return np.array(values)
    except ValueError:  # lists of several lengths or depths
        return np.array(None)


def _reach(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Points beyond these x and y would cost memory and paint nothing."""
    limit = np.array(size[::-1], np.float64)
    return -limit, 2 * limit


def _decompressed(text: str) -> np.ndarray:
    """Run lengths of COCO's compressed text (`rleFrString` of its API): digits of five bits, the lowest first, a sign,
    and from the fourth run on the difference to the one before the last."""
    digits = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).astype(np.int64) - 48
    if ((digits < 0) | (digits > 63)).any() or (len(digits) and digits[-1] & 32):
        raise ValueError("`counts` is no compressed text, or cut short")
    if not len(digits):
        return digits
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= MOST_DIGITS:
        raise ValueError("`counts` holds a run longer than an image")
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((digits & 31) << 5 * place, first)
    values -= (digits[last] >> 4 & 1) << 5 * (last - first + 1)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values
