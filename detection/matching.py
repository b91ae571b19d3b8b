"""Matches boxes with true boxes and ignored regions. Results equal torchvision's, but need only bounded memory.

A crowd or ignore region is neither object nor background. An anchor or proposal that would be a negative, but lies
mostly inside such a region, takes no loss.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from backbones.common import devices

PAIRS = 1 << 20  # pairs of a true box and another box whose IoUs are held at a time: about 30 MB with all temporaries
IGNORED_FRACTION = 0.5  # of a negative's area inside one ignored region, from which the negative takes no loss
IGNORE = -1  # label that torchvision's samplers leave out


def match_boxes(truth: Tensor, boxes: Tensor, matcher: Matcher) -> Tensor:
    """Return exactly what `matcher(box_iou(truth, boxes))` returns, without storing all IoUs at once.

    Args:
        truth: `[M, 4]` xyxy, at least one.
        boxes: `[N, 4]` xyxy.

    Returns:
        For each box `[N]` the index of its true box, or -1 (background) or -2 (between the thresholds).
    """
    best, nearest = truth.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    highest, peaks = truth.new_zeros(len(truth)), []
    waits = devices.reading_waits(boxes.device)
    finds_peaks = matcher.allow_low_quality_matches and not waits
    for block, rows, overlaps in _blocks(truth, boxes):
        # Find the true box of the highest IoU for each box of the block.
        best[block], indices = overlaps.max(dim=0)
        # A box that overlaps no true box has IoU 0 with all, of which the first counts.
        nearest[block] = torch.where(best[block] > 0, rows[indices], 0)
        # Remember the boxes that have the highest IoU of the block for each true box.
        tops = overlaps.max(dim=1).values
        highest[rows] = torch.maximum(highest[rows], tops)
        if not finds_peaks:
            continue
        row, column = torch.where((overlaps == tops[:, None]) & (tops > 0)[:, None])
        peaks.append((rows[row], column + block.start, tops[row]))
    # Apply the two thresholds.
    matches = nearest.clone()
    matches[best < matcher.low_threshold] = matcher.BELOW_LOW_THRESHOLD
    matches[(best >= matcher.low_threshold) & (best < matcher.high_threshold)] = matcher.BETWEEN_THRESHOLDS
    # Match the boxes of the highest IoU of each true box, however low it is (Faster R-CNN, section 3.1.2).
    if matcher.allow_low_quality_matches and waits:
        is_closest = torch.cat([(iou == highest[:, None]).any(dim=0) for _, _, iou in _blocks(truth, boxes)])
        matches = torch.where(is_closest, nearest, matches)
    elif matcher.allow_low_quality_matches:
        row, column, top = (torch.cat(parts) for parts in zip(*peaks, strict=True))
        # If some true box overlaps no box, its highest IoU is 0, which it has with every box.
        closest = slice(None) if (highest == 0).any() else column[top == highest[row]]
        matches[closest] = nearest[closest]
    return matches


def _blocks(truth: Tensor, boxes: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield blocks of B boxes: their slice, indices `[K]` of true boxes that may overlap, and IoUs `[K, B]`."""
    step = max(1, PAIRS // len(truth))
    everything = torch.arange(len(truth), device=truth.device)
    takes_all = step >= len(boxes) or devices.reading_waits(boxes.device)
    for begin in range(0, len(boxes), step):
        block = slice(begin, min(begin + step, len(boxes)))
        rows = everything if takes_all else _near(truth, boxes[block])
        if len(rows):
            yield block, rows, box_iou(truth[rows], boxes[block])


def _near(truth: Tensor, boxes: Tensor) -> Tensor:
    """Return the indices of the true boxes that touch the rectangle around all of `boxes`.

    Anchors are ordered row by row, so the rectangle around a block of them is small.
    """
    low, high = boxes[:, :2].min(dim=0).values, boxes[:, 2:].max(dim=0).values
    return torch.where(((truth[:, 2:] >= low) & (truth[:, :2] <= high)).all(dim=1))[0]


def ignore_negatives(labels: list[Tensor], boxes: list[Tensor], targets: list[dict[str, Tensor]]) -> list[Tensor]:
    """Return the labels with `IGNORE` for negatives (label 0) that lie mostly inside an ignored region of their image.

    If that would leave nothing to sample in the whole batch, return the labels unchanged: a mean over nothing is NaN.

    Args:
        labels: for each image, the labels of its boxes `[B]`.
        boxes: for each image, its boxes `[B, 4]` xyxy.
        targets: may hold `ignore` `[K, 4]` xyxy.
    """
    if not has_regions(targets):
        return labels
    changed = [_ignore_negatives(*image) for image in zip(labels, boxes, targets, strict=True)]
    return changed if any((label >= 0).any() for label in changed) else labels


def has_regions(targets: list[dict[str, Tensor]]) -> bool:
    """Return whether any image has ignored regions."""
    return any(len(target.get("ignore", ())) for target in targets)


def _ignore_negatives(labels: Tensor, boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Return the labels `[B]` of one image, with `IGNORE` for negatives that lie mostly inside its ignored regions."""
    regions = target.get("ignore")
    if regions is None or not len(regions):
        return labels
    inside = largest_fraction_inside(boxes, regions) >= IGNORED_FRACTION
    return torch.where((labels == 0) & inside, IGNORE, labels)


def largest_fraction_inside(boxes: Tensor, regions: Tensor) -> Tensor:
    """Return for each of N boxes the largest fraction of its area that lies inside one of K regions: `[N]`."""
    fractions = torch.zeros(len(boxes), device=boxes.device)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1e-6)
    for region in regions:  # an image has few regions, and a loop keeps the memory at one value per box
        corner = torch.maximum(boxes[:, :2], region[:2])
        overlap = (torch.minimum(boxes[:, 2:], region[2:]) - corner).clamp(min=0).prod(dim=1)
        fractions = torch.maximum(fractions, overlap / area)
    return fractions
