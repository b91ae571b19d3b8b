"""Pastes predicted masks into images, as bitmaps or as COCO's run-length codes.

A detector predicts each mask on a grid over its box. Its training targets are cut out by RoIAlign, for which the centre
of pixel p is at p, whereas boxes count pixel p from p to p + 1. In an image that is not resized, the grid therefore
covers the box moved right and down by half a pixel (`Preprocessor.grid_offset` for other images). There it is
interpolated bilinearly at the centres of the pixels inside the box.

torchvision rounds the box to whole pixels and enlarges it by one pixel, which costs small objects much of their IoU.
Its rule is available too, equal to the last pixel. Neither rule makes an image of floats or, for run lengths, a bitmap
of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from backbones.common.coco import CompressedRuns
from detection.runs import code_of_runs, strips_of

Size: TypeAlias = tuple[int, int]  # height and width of an image in pixels
Offset: TypeAlias = tuple[float, float]  # right and down, in pixels
THRESHOLD = 0.5  # probability from which a pixel belongs to the object
HALF_PIXEL: Offset = (0.5, 0.5)  # offset of the grids in an image that was not resized
LEAST_SIDE = 1e-6  # of a grid in pixels


def paste(masks: Tensor, boxes: Tensor, size: Size, *, offset: Offset | None = HALF_PIXEL) -> Tensor:
    """Return the masks of boxes as bitmaps of an image of size (height, width): `[N, H, W]` bool, on the CPU.

    Args:
        masks: probabilities in the cells of a grid over each box `[N, M, M]`.
        boxes: `[N, 4]` xyxy in pixels of the image.
        offset: how far the grids lie right of and below the boxes, in pixels of the image
            (`Preprocessor.grid_offset`). None pastes as torchvision does.
    """
    pasted = torch.zeros((len(masks), *size), dtype=torch.bool)
    for index, (left, top, crop) in enumerate(_crops(masks, boxes, size, offset)):
        height, width = crop.shape
        pasted[index, top : top + height, left : left + width] = crop
    return pasted


def encode(masks: Tensor, boxes: Tensor, size: Size, *, offset: Offset | None = HALF_PIXEL) -> list[CompressedRuns]:
    """Return the masks of boxes as COCO's compressed run-length codes. See `paste` for the arguments."""
    return [
        _runs(np.ascontiguousarray(crop.numpy().T), left, top, size)
        for left, top, crop in _crops(masks, boxes, size, offset)
    ]


def decode(codes: Sequence[CompressedRuns], size: Size) -> Tensor:
    """Return masks `[N, H, W]` bool of run-length codes for an image of size (height, width)."""
    masks = torch.zeros((len(codes), *size), dtype=torch.bool)
    for mask, code in zip(masks, codes, strict=True):
        for left, right, top, bottom in strips_of(code).tolist():
            mask[top:bottom, left:right] = True
    return masks


def _crops(masks: Tensor, boxes: Tensor, size: Size, offset: Offset | None) -> Iterator[tuple[int, int, Tensor]]:
    """Yield each mask within its box: left and top of the part in the image, and the part `[h, w]` bool."""
    masks, boxes = masks.detach().cpu(), boxes.detach().cpu()
    if offset is None:
        yield from _crops_of_torchvision(masks, boxes, size)
        return
    # NumPy takes a fraction of PyTorch's time for arrays of this size.
    for mask, (left, top, right, bottom) in zip(masks.float().numpy(), boxes.tolist(), strict=True):
        x, across = _interpolation(left, right, offset[0], size[1], mask.shape[1])
        y, down = _interpolation(top, bottom, offset[1], size[0], mask.shape[0])
        yield x, y, torch.from_numpy(down @ mask @ across.T >= THRESHOLD)


def _interpolation(low: float, high: float, offset: float, length: int, count: int) -> tuple[int, np.ndarray]:
    """Return the first pixel inside a box along one axis, and the weights of the cells `[P, count]`.

    The weights are those of linear interpolation between the centres of cells. Beyond the outer centres, the outer
    cells count alone.

    Args:
        low, high: sides of the box in pixels.
        offset: distance of the grid from the box.
        length: number of pixels of the image.
        count: number of cells.
    """
    first, last = max(0, math.ceil(low - 0.5)), min(length - 1, math.floor(high - 0.5))
    centres = np.arange(first, max(first, last + 1)) + 0.5
    at = (centres - low - offset) * (count / max(high - low, LEAST_SIDE)) - 0.5
    weights = 1 - np.abs(at.clip(0, count - 1)[:, None] - np.arange(count))
    return first, weights.clip(0).astype(np.float32)


def _crops_of_torchvision(masks: Tensor, boxes: Tensor, size: Size) -> Iterator[tuple[int, int, Tensor]]:
    """Yield what `_crops` yields, by torchvision's rule."""
    # Pad the grids by a cell of zeros, and the boxes accordingly.
    padded, scale = expand_masks(masks[:, None], padding=1)
    corners = expand_boxes(boxes, scale).to(torch.int64).tolist()
    for mask, (left, top, right, bottom) in zip(padded, corners, strict=True):
        sides = (max(bottom - top + 1, 1), max(right - left + 1, 1))
        whole = F.interpolate(mask[None], size=sides, mode="bilinear", align_corners=False)[0, 0]
        x, y = max(left, 0), max(top, 0)
        inside = whole[y - top : min(bottom + 1, size[0]) - top, x - left : min(right + 1, size[1]) - left]
        yield x, y, inside >= THRESHOLD


def _runs(columns: np.ndarray, left: int, top: int, size: Size) -> CompressedRuns:
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
    return code_of_runs(at[0::2], at[1::2], size)
