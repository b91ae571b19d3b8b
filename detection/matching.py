"""Matching of boxes with the truth: torchvision's results, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

PAIRS = 1 << 20  # of a true box and another whose overlaps are held at a time: some 30 MB with all that they need


def match_boxes(truth: Tensor, boxes: Tensor, matcher: Matcher) -> Tensor:
    """What `matcher(box_iou(truth, boxes))` gives, to the last bit.

    Args:
        truth: `[M, 4]` xyxy, at least one; boxes: `[N, 4]`.

    Returns:
        For each box `[N]` the place of its true box, or -1 (background) or -2 (neither).
    """
    best, nearest = truth.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    highest, peaks = truth.new_zeros(len(truth)), []
    for block, rows, overlaps in _blocks(truth, boxes):
        best[block], places = overlaps.max(dim=0)
        # Where nothing overlaps all true boxes are as near, and the first of them counts.
        nearest[block] = torch.where(best[block] > 0, rows[places], 0)
        tops = overlaps.max(dim=1).values
        highest[rows] = torch.maximum(highest[rows], tops)
        row, column = torch.where((overlaps == tops[:, None]) & (tops > 0)[:, None])
        peaks.append((rows[row], column + block.start, tops[row]))
    matches = nearest.clone()
    matches[best < matcher.low_threshold] = matcher.BELOW_LOW_THRESHOLD
    matches[(best >= matcher.low_threshold) & (best < matcher.high_threshold)] = matcher.BETWEEN_THRESHOLDS
    if matcher.allow_low_quality_matches:
        row, column, top = (torch.cat(parts) for parts in zip(*peaks, strict=True))
        # A true box that overlaps nothing has its largest overlap, 0, with every box.
        closest = slice(None) if (highest == 0).any() else column[top == highest[row]]
        matches[closest] = nearest[closest]
    return matches


def _blocks(truth: Tensor, boxes: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of the boxes `[B]`, places of the true boxes `[K]` that may overlap them, and overlaps `[K, B]`."""
    step = max(1, PAIRS // len(truth))
    everything = torch.arange(len(truth), device=truth.device)
    for begin in range(0, len(boxes), step):
        block = slice(begin, min(begin + step, len(boxes)))
        rows = everything if step >= len(boxes) else _near(truth, boxes[block])
        if len(rows):
            yield block, rows, box_iou(truth[rows], boxes[block])


def _near(truth: Tensor, boxes: Tensor) -> Tensor:
    """Places of the true boxes that touch the hull of some boxes; anchors lie row by row, so that it is small."""
    low, high = boxes[:, :2].min(dim=0).values, boxes[:, 2:].max(dim=0).values
    return torch.where(((truth[:, 2:] >= low) & (truth[:, :2] <= high)).all(dim=1))[0]
