"""Non-maximum suppression of all images of a batch together, because a GPU is waited for in each call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

LEAST_SIDE = 1e-2  # pixels of a detection's side; torchvision's value
# Boxes of one call. The time of a call grows with their square; torchvision measured that up to this number one call is
# faster than several.
MOST_BOXES = 25_000


@dataclass(frozen=True)
class Candidates:
    """Boxes of several images, image by image, of which non-maximum suppression keeps the best.

    Attributes:
        boxes: `[B, 4]` xyxy, with coordinates of at least 0.
        scores: `[B]`.
        groups: class or pyramid level of each box `[B]`, 0 to `count` - 1. Boxes of different groups suppress nothing
            of each other.
        usable: `[B]` bool; other boxes neither suppress nor are kept.
        sizes: number of boxes of each image.
        count: number of groups.
    """

    boxes: Tensor
    scores: Tensor
    groups: Tensor
    usable: Tensor
    sizes: Sequence[int]
    count: int

    def part(self, chosen: slice, sizes: Sequence[int]) -> Candidates:
        """Return the boxes of some images, of which `chosen` are the boxes and `sizes` their numbers."""
        boxes, scores, groups, usable = (each[chosen] for each in (self.boxes, self.scores, self.groups, self.usable))
        return Candidates(boxes, scores, groups, usable, sizes, self.count)


def best_of_images(candidates: Candidates, *, threshold: float, most: int) -> list[Tensor]:
    """Return for each image the indices of the boxes that non-maximum suppression keeps, the best first.

    They are the boxes that `torchvision.ops.batched_nms` keeps of the usable boxes of each image.

    Args:
        threshold: IoU above which the weaker of two boxes is removed.
        most: number of boxes kept of an image.
    """
    found: list[Tensor] = []
    for chosen, sizes in _calls(candidates.sizes):
        kept = _best(candidates.part(chosen, sizes), threshold)
        found += [each[:most] + chosen.start for each in kept]
    return found


def detections_of_images(
    boxes: Sequence[Tensor],
    probabilities: Tensor,
    image_sizes: Sequence[tuple[int, int]],
    *,
    least_score: float,
    threshold: float,
    most: int,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the boxes, scores and labels of each image's detections, as torchvision's `postprocess_detections` does.

    Args:
        boxes: for each image, the box of each class of each RoI `[R, K + 1, 4]` xyxy; class 0 is the background.
        probabilities: class probabilities of the RoIs of all images `[R, K + 1]`.
        image_sizes: height and width of each image.
        least_score: boxes with this score or less are left out.
        threshold: IoU above which the weaker of two boxes of a class is removed.
        most: number of boxes kept of an image.
    """
    clipped = torch.cat([clip_boxes_to_image(own, size) for own, size in zip(boxes, image_sizes, strict=True)])
    sides = clipped[..., 2:] - clipped[..., :2]
    usable = (probabilities > least_score) & (sides >= LEAST_SIDE).all(-1)
    usable[:, 0] = False  # the background is no detection
    roi, label = torch.where(usable)
    # Count the boxes of each image.
    ends = torch.tensor([0, *accumulate(len(own) for own in boxes)]).to(roi.device, non_blocking=True)
    found = torch.searchsorted(roi, ends)
    flat, scores = clipped[roi, label], probabilities[roi, label]
    sizes = (found[1:] - found[:-1]).tolist()
    every = torch.ones_like(label, dtype=torch.bool)
    candidates = Candidates(flat, scores, label, every, sizes, count=probabilities.shape[1])
    kept = best_of_images(candidates, threshold=threshold, most=most)
    return [flat[each] for each in kept], [scores[each] for each in kept], [label[each] for each in kept]


def _calls(sizes: Sequence[int]) -> Iterator[tuple[slice, list[int]]]:
    """Divide images into calls of at most `MOST_BOXES` boxes, or of one image; yield slice and sizes of each call."""
    begin, own = 0, list[int]()
    for size in sizes:
        if own and sum(own) + size > MOST_BOXES:
            yield slice(begin, begin + sum(own)), own
            begin, own = begin + sum(own), []
        own.append(size)
    yield slice(begin, begin + sum(own)), own


def _best(candidates: Candidates, threshold: float) -> list[Tensor]:
    """Return for each image the indices of its kept boxes, with one call and one reading of sizes."""
    boxes, sizes, count = candidates.boxes, candidates.sizes, candidates.count
    if not len(boxes):
        return [torch.zeros(0, dtype=torch.int64, device=boxes.device) for _ in sizes]
    numbers = torch.arange(len(sizes), device=boxes.device)
    image = torch.cat([number.expand(size) for number, size in zip(numbers, sizes, strict=True)])
    # Count boxes that are not usable as boxes of one more image, which is left out below.
    image = torch.where(candidates.usable, image, len(sizes))
    apart = _apart(boxes, image * count + candidates.groups, (len(sizes) + 1) * count)
    kept = nms(apart, candidates.scores, threshold)
    # Sort by image; a stable sort keeps the best of each image first.
    owners, order = image[kept].sort(stable=True)
    counts = (owners == numbers[:, None]).sum(1).tolist()
    return list(kept[order][: sum(counts)].split(counts))


def _apart(boxes: Tensor, cell: Tensor, cells: int) -> Tensor:
    """Return boxes `[B, 4]` shifted so far that boxes of different cells `[B]` do not overlap.

    The cells are laid out as a square, because a long row would have coordinates that round coarsely.
    """
    side = math.ceil(math.sqrt(cells))
    corner = torch.stack([cell % side, cell.div(side, rounding_mode="floor")], dim=1)
    return boxes + (corner * (boxes.max().ceil() + 1)).repeat(1, 2)
