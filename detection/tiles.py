"""Detection in images far larger than the net's input: overlapping tiles, whose findings are merged.

An object no larger than the overlap lies whole in some tile. Larger ones are looked for in the whole image as well,
made small as the net always does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from backbones.common.images import window_starts
from backbones.errors import UserError
from detection.trained import Detections, TrainedDetector

SAME = 0.5  # intersection over union from which two boxes of a class are one object
PART = 0.5  # share of a cut box inside another from which it is a part of that one
EDGE = 0.01  # of a tile's side: boxes that end so near to an inner edge are cut by it


@dataclass(frozen=True)
class Tiles:
    """How an image is cut.

    Args:
        side: of the square tiles, in pixels of the image; images that are no larger are taken whole.
        overlap: share of a tile that its neighbour repeats, 0 to below 1.
    """

    side: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.side < 16 or not 0 <= self.overlap < 1:
            raise UserError(
                f"tiles of {self.side} pixels, overlap {self.overlap}: expected 16 or more, and 0 to below 1"
            )

    def needed(self, image: Tensor) -> bool:
        """Whether an image `[C, H, W]` is larger than a tile."""
        return max(image.shape[-2:]) > self.side

    def corners(self, image: Tensor) -> list[tuple[int, int]]:
        """Left and top of each tile of an image `[C, H, W]`."""
        tops, lefts = (window_starts(length, self.side, self.overlap) for length in image.shape[-2:])
        return [(left, top) for top in tops for left in lefts]


def detect_in_tiles(detector: TrainedDetector, image: Tensor, tiles: Tiles, *, batch_size: int = 8) -> Detections:
    """What is in an image `[3, H, W]`, as `detector.read` gives it; memory is bounded by the image and a batch."""
    if not tiles.needed(image):
        return detector.predict([image])[0]
    whole = detector.predict([image])[0]
    found = [whole.where((whole.boxes[:, 2:] - whole.boxes[:, :2]).amax(1) > tiles.overlap * tiles.side)]
    cut = [torch.zeros(len(found[0]), dtype=torch.bool)]
    corners = iter(tiles.corners(image))
    while batch := list(islice(corners, batch_size)):
        parts = [image[:, top : top + tiles.side, left : left + tiles.side] for left, top in batch]
        for (left, top), part in zip(batch, detector.predict(parts), strict=True):
            boxes = part.boxes + torch.tensor([left, top, left, top])
            found.append(Detections(boxes, part.scores, part.labels, part.names))
            cut.append(_cut(boxes, left, top, tiles.side, image))
    return merge(_joined(found), torch.cat(cut))


def merge(found: Detections, cut: Tensor) -> Detections:
    """Detections of overlapping tiles, each object once.

    Among boxes of a class: one box that lies on a better one (by `SAME`) is left out; so is a cut one of which `PART`
    lies in a box that is not cut; cut ones that lie in each other become the box around them.

    Args:
        cut: which `[N]` end at an inner edge of their tile.
    """
    boxes = found.boxes.clone()
    kept: list[int] = []
    # What is whole goes first: a part of an object may well have the higher score.
    order = sorted(range(len(found)), key=lambda place: (bool(cut[place]), -float(found.scores[place])))
    for label in found.labels.unique().tolist():
        places = torch.tensor([place for place in order if found.labels[place] == label])
        while len(places):
            best, rest = int(places[0]), places[1:]
            kept.append(best)
            places = rest[~_swallowed(boxes, best, rest, cut)]
    chosen = torch.tensor(sorted(kept, key=lambda place: -float(found.scores[place])), dtype=torch.long)
    return Detections(boxes, found.scores, found.labels, found.names).where(chosen)


def _swallowed(boxes: Tensor, best: int, rest: Tensor, cut: Tensor) -> Tensor:
    """Which of the places `rest` are the object at `best`; a cut box there grows around cut ones, in place."""
    gone = torch.zeros(len(rest), dtype=torch.bool)
    while True:
        shared = (
            torch.minimum(boxes[best, 2:], boxes[rest, 2:]) - torch.maximum(boxes[best, :2], boxes[rest, :2])
        ).clamp(0)
        inter, own, others = shared.prod(1), _area(boxes[best]), _area(boxes[rest])
        same = inter > SAME * (own + others - inter)
        part = cut[rest] & (inter > PART * (torch.minimum(own, others) if cut[best] else others))
        more = (same | part) & ~gone
        if not more.any():
            return gone
        gone |= more
        if cut[best] and part.any():
            joined = boxes[rest[part]]
            boxes[best, :2] = torch.minimum(boxes[best, :2], joined[:, :2].amin(0))
            boxes[best, 2:] = torch.maximum(boxes[best, 2:], joined[:, 2:].amax(0))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _cut(boxes: Tensor, left: int, top: int, side: int, image: Tensor) -> Tensor:
    """Which boxes end at an edge of their tile beyond which the image goes on."""
    height, width = image.shape[-2:]
    margin = max(2.0, EDGE * side)
    edges = [(boxes[:, 0], left, left > 0, 1), (boxes[:, 1], top, top > 0, 1)]
    edges += [(boxes[:, 2], left + side, left + side < width, -1), (boxes[:, 3], top + side, top + side < height, -1)]
    ends = torch.zeros(len(boxes), dtype=torch.bool)
    for values, edge, inner, inwards in edges:
        if inner:
            ends |= (values - edge) * inwards < margin
    return ends


def _joined(parts: list[Detections]) -> Detections:
    columns = (torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels"))
    boxes, scores, labels = columns
    return Detections(boxes, scores, labels, tuple(name for part in parts for name in part.names))
