"""Pastes predicted masks into images, as bitmaps or as COCO's run-length codes.

A detector predicts each mask on a grid over its box. torchvision resizes it to the size of the box and stores all masks
of an image as floats of the image's size. Here a mask is thresholded within its box, and is equal to torchvision's to
the last pixel, but no float image and, for run lengths, no bitmap of the image is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from backbones.common.coco import CompressedRuns
from backbones.common.outlines import compressed, decompressed
from detection.strips import strips_of_counts

THRESHOLD = 0.5  # probability from which a pixel belongs to the object


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the masks of boxes as bitmaps of an image of size (height, width): `[N, H, W]` bool, on the CPU.

    Args:
        masks: probabilities in the cells of a grid over each box `[N, M, M]`.
        boxes: `[N, 4]` xyxy in pixels of the image.
    """
    pasted = torch.zeros((len(masks), *size), dtype=torch.bool)
    for index, (left, top, crop) in enumerate(_crops(masks, boxes, size)):
        height, width = crop.shape
        pasted[index, top : top + height, left : left + width] = crop
    return pasted


def encode(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[CompressedRuns]:
    """Return the masks of boxes as COCO's compressed run-length codes. See `paste` for the arguments."""
    return [
        _runs(np.ascontiguousarray(crop.numpy().T), left, top, size) for left, top, crop in _crops(masks, boxes, size)
    ]


def decode(codes: Sequence[CompressedRuns], size: tuple[int, int]) -> Tensor:
    """Return masks `[N, H, W]` bool of run-length codes for an image of size (height, width)."""
    masks = torch.zeros((len(codes), *size), dtype=torch.bool)
    for mask, code in zip(masks, codes, strict=True):
        for left, right, top, bottom in strips_of_counts(decompressed(code["counts"]), size[0]).tolist():
            mask[top:bottom, left:right] = True
    return masks


def moved(code: CompressedRuns, left: int, top: int, size: tuple[int, int]) -> CompressedRuns:
    """Return the code of a mask whose image is a part of another image of size (height, width).

    Args:
        left, top: position of the part's upper left corner in the other image.
    """
    return encode_strips(_strips(code) + np.array([left, left, top, top]), size)


def united(codes: Sequence[CompressedRuns]) -> CompressedRuns:
    """Return the code of the union of masks of one image."""
    height, width = codes[0]["size"]
    return encode_strips(np.concatenate([_strips(code) for code in codes]), (height, width))


def encode_strips(strips: np.ndarray, size: tuple[int, int]) -> CompressedRuns:
    """Return the run-length code of the union of strips `[S, 4]` (left, right, top, bottom)."""
    left, right, top, bottom = strips.T.astype(np.int64)
    # Cut the strips into columns.
    widths = right - left
    first = np.repeat(widths.cumsum() - widths, widths)
    column = np.repeat(left, widths) + np.arange(widths.sum()) - first
    begin, end = (column * size[0] + np.repeat(side, widths) for side in (top, bottom))
    # Join the runs that overlap or touch.
    order = begin.argsort(kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order]) if len(order) else end
    apart = np.flatnonzero(begin[1:] > end[:-1]) + 1
    return _code(begin[np.concatenate([[0], apart])] if len(begin) else begin, _lasts(end, apart), size)


def _lasts(end: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Return the ends of joined runs, of which each but the first begins at an index of `apart`."""
    return end[np.concatenate([apart - 1, [len(end) - 1]])] if len(end) else end


def _strips(code: CompressedRuns) -> np.ndarray:
    return strips_of_counts(decompressed(code["counts"]), code["size"][0])


def _crops(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterator[tuple[int, int, Tensor]]:
    """Yield each mask within its box: left and top of the part in the image, and the part `[h, w]` bool."""
    # Pad the grids by a cell of zeros, and the boxes accordingly, as torchvision does.
    padded, scale = expand_masks(masks.detach().cpu()[:, None], padding=1)
    corners = expand_boxes(boxes.detach().cpu(), scale).to(torch.int64).tolist()
    for mask, (left, top, right, bottom) in zip(padded, corners, strict=True):
        sides = (max(bottom - top + 1, 1), max(right - left + 1, 1))
        whole = F.interpolate(mask[None], size=sides, mode="bilinear", align_corners=False)[0, 0]
        x, y = max(left, 0), max(top, 0)
        inside = whole[y - top : min(bottom + 1, size[0]) - top, x - left : min(right + 1, size[1]) - left]
        yield x, y, inside >= THRESHOLD


def _runs(columns: np.ndarray, left: int, top: int, size: tuple[int, int]) -> CompressedRuns:
    """Return the code of a mask that lies within a part of an image.

    Args:
        columns: the part, column by column `[w, h]` bool.
        left, top: position of the part in the image.
        size: height and width of the image.
    """
    width, height = columns.shape
    padded = np.zeros((width, height + 2), np.int8)
    padded[:, 1:-1] = columns
    column, row = np.nonzero(np.diff(padded, axis=1))
    at = (column + left) * size[0] + row + top
    begin, end = at[0::2], at[1::2]
    # A run that ends at the image's lower edge continues in the next column if that begins at the upper edge.
    apart = np.flatnonzero(begin[1:] > end[:-1]) + 1
    return _code(begin[np.concatenate([[0], apart])] if len(begin) else begin, _lasts(end, apart), size)


def _code(begin: np.ndarray, end: np.ndarray, size: tuple[int, int]) -> CompressedRuns:
    """Return the code of runs, given by the positions of their begins and ends, column by column."""
    changes = np.stack([begin, end], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], changes, [size[0] * size[1]]]))
    return {"size": list(size), "counts": compressed(counts if counts[-1] or len(counts) == 1 else counts[:-1])}
