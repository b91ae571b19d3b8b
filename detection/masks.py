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
from detection.runs import code_of_runs, strips_of

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
        for left, right, top, bottom in strips_of(code).tolist():
            mask[top:bottom, left:right] = True
    return masks


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
    return code_of_runs(at[0::2], at[1::2], size)
