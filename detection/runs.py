"""Masks as run-length codes and as strips, which are explained in `detection.strips`. This module needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbones.common.coco import CompressedRuns
from backbones.common.outlines import compressed, decompressed


def strips_of_counts(counts: np.ndarray, height: int) -> np.ndarray:
    """Return the strips `[S, 4]` (left, right, top, bottom) int32 of one mask.

    Args:
        counts: lengths of alternating runs of background and object pixels, column by column `[R]` int64.
        height: of the image in pixels.
    """
    ends = counts.cumsum()
    begin, end = ends[0::2][: len(ends[1::2])], ends[1::2]
    begin, end = begin[end > begin], end[end > begin]
    first, last = begin // height, (end - 1) // height
    top, bottom = begin - first * height, end - last * height
    # A run within a column is one strip. A longer one has a first column, columns in full, and a last column.
    single, many = first == last, first < last
    parts = [
        (first, first + 1, top, np.where(single, bottom, height)),
        ((first + 1)[many], last[many], 0 * last[many], 0 * last[many] + height),
        (last[many], last[many] + 1, 0 * last[many], bottom[many]),
    ]
    strips = np.concatenate([np.stack(part, axis=1) for part in parts]).astype(np.int32)
    return strips[strips[:, 0] < strips[:, 1]]


def mirrored(strips: np.ndarray, width: int) -> np.ndarray:
    """Flip strips `[S, 5]` horizontally in an image of `width` pixels."""
    owner, left, right, top, bottom = strips.T
    return np.stack([owner, width - right, width - left, top, bottom], axis=1)


def shrunk(strips: np.ndarray, factor: int, size: tuple[int, int]) -> np.ndarray:
    """Return the strips `[S, 5]` of masks whose image is divided by `factor`, with its sides rounded up.

    Each new pixel is a copy of the pixel in its middle, or of the last pixel.

    Args:
        size: height and width of the whole image.
    """
    if factor == 1:
        return strips
    limits = np.array([0, size[1], size[1], size[0], size[0]])
    middle = factor // 2
    edges = np.where(strips == limits, -(-strips // factor), (strips + factor - 1 - middle) // factor)
    found = np.column_stack([strips[:, 0], edges[:, 1:]]).astype(np.int32)
    return found[(found[:, 1] < found[:, 2]) & (found[:, 3] < found[:, 4])]


def selected(strips: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the strips of the objects at `indices` `[M]`, which are ascending. These objects become 0 to M-1."""
    kept = strips[np.isin(strips[:, 0], indices)]
    return np.column_stack([np.searchsorted(indices, kept[:, 0]), kept[:, 1:]]).astype(np.int32)


def bitmaps(strips: np.ndarray, count: int, size: tuple[int, int]) -> np.ndarray:
    """Return the masks of `count` objects `[N, H, W]` uint8, 0 or 1, in an image of size (height, width)."""
    masks = np.zeros((count, *size), np.uint8)
    for owner, left, right, top, bottom in strips.tolist():
        masks[owner, top:bottom, left:right] = 1
    return masks


def moved(code: CompressedRuns, left: int, top: int, size: tuple[int, int]) -> CompressedRuns:
    """Return the code of a mask whose image is a part of another image of size (height, width).

    Args:
        left, top: position of the part's upper left corner in the other image.
    """
    return encode_strips(strips_of(code) + np.array([left, left, top, top]), size)


def united(codes: Sequence[CompressedRuns]) -> CompressedRuns:
    """Return the code of the union of masks of one image."""
    height, width = codes[0]["size"]
    return encode_strips(np.concatenate([strips_of(code) for code in codes]), (height, width))


def encode_strips(strips: np.ndarray, size: tuple[int, int]) -> CompressedRuns:
    """Return the run-length code of the union of strips `[S, 4]` (left, right, top, bottom)."""
    left, right, top, bottom = strips.T.astype(np.int64)
    # Cut the strips into columns.
    widths = right - left
    first = np.repeat(widths.cumsum() - widths, widths)
    column = np.repeat(left, widths) + np.arange(widths.sum()) - first
    begin, end = (column * size[0] + np.repeat(side, widths) for side in (top, bottom))
    order = begin.argsort(kind="stable")
    return code_of_runs(begin[order], end[order], size)


def strips_of(code: CompressedRuns) -> np.ndarray:
    """Return the strips `[S, 4]` of a run-length code."""
    return strips_of_counts(decompressed(code["counts"]), code["size"][0])


def code_of_runs(begin: np.ndarray, end: np.ndarray, size: tuple[int, int]) -> CompressedRuns:
    """Return the code of runs of pixels, which may overlap or touch.

    Args:
        begin, end: positions of the runs in an image of size (height, width), column by column, ordered by begin.
    """
    # Join the runs that overlap or touch: a run begins where a begin lies behind all earlier ends.
    reach = np.maximum.accumulate(end) if len(end) else end
    first = np.ones(len(begin), bool)
    first[1:] = begin[1:] > reach[:-1]
    last = np.roll(first, -1)
    changes = np.stack([begin[first], reach[last]], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], changes, [size[0] * size[1]]]))
    # The last run of background is left out if it is empty, as pycocotools does.
    return {"size": list(size), "counts": compressed(counts if counts[-1] or len(counts) == 1 else counts[:-1])}


def strips_of_codes(codes: Sequence[CompressedRuns]) -> np.ndarray:
    """Return the strips `[S, 5]` of the masks of N objects."""
    found = [strips_of(code) for code in codes]
    owners = np.repeat(np.arange(len(codes)), [len(own) for own in found])
    return np.column_stack([owners, np.concatenate([np.zeros((0, 4)), *found])]).astype(np.int32)
