"""Detects objects in very large images: cuts an image into overlapping tiles and merges the tiles' detections.

An object no larger than the overlap lies completely in some tile. Larger objects are searched for in the whole image,
resized as the model always resizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from backbones.common.images import tile_starts
from backbones.errors import UserError
from detection.results import Detections, Outlines
from detection.runs import moved, united
from detection.trained import TrainedDetector

SAME_IOU = 0.5  # from this IoU on, two boxes of a class are one object
PART = 0.5  # fraction of a cut box inside another box, from which the cut box is a part of that object
EDGE = 0.01  # fraction of a tile's side: a box that ends so near to an inner edge is cut by it


@dataclass(frozen=True)
class Tiles:
    """Size and overlap of the tiles into which an image is cut.

    Args:
        side: side of the square tiles in pixels of the image. An image that is no larger is not cut.
        overlap: fraction of a tile that its neighbour repeats, 0 to below 1.

    Raises:
        UserError: a value is out of range.
    """

    side: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.side < 16 or not 0 <= self.overlap < 1:
            raise UserError(
                f"tiles of {self.side} pixels, overlap {self.overlap}: use at least 16 pixels, and an overlap of 0 to "
                "below 1"
            )

    def needed(self, image: Tensor) -> bool:
        """Return whether an image `[C, H, W]` is larger than a tile."""
        return max(image.shape[-2:]) > self.side

    def corners(self, image: Tensor) -> list[tuple[int, int]]:
        """Return the top left corner (left, top) of each tile of an image `[C, H, W]`."""
        tops, lefts = (tile_starts(length, self.side, self.overlap) for length in image.shape[-2:])
        return [(left, top) for top in tops for left in lefts]


def detect_in_tiles(detector: TrainedDetector, image: Tensor, tiles: Tiles, *, batch_size: int = 8) -> Detections:
    """Detect objects in an image `[3, H, W]` that `detector.read` has returned.

    Memory is bounded by the image and one batch of tiles.
    """
    if not tiles.needed(image):
        return detector.predict([image])[0]
    # Detect in the whole image, and keep the objects that may not fit into the overlap.
    whole = detector.predict([image])[0]
    found = [whole.where((whole.boxes[:, 2:] - whole.boxes[:, :2]).amax(1) > tiles.overlap * tiles.side)]
    cut = [torch.zeros(len(found[0]), dtype=torch.bool)]
    # Detect in the tiles, batch by batch, and move the boxes to their place in the image.
    corners = iter(tiles.corners(image))
    while batch := list(islice(corners, batch_size)):
        parts = [image[:, top : top + tiles.side, left : left + tiles.side] for left, top in batch]
        for (left, top), part in zip(batch, detector.predict(parts), strict=True):
            boxes = part.boxes + torch.tensor([left, top, left, top])
            outlines = part.outlines and _moved_outlines(part.outlines, left, top, image)
            found.append(replace(part, boxes=boxes, outlines=outlines))
            cut.append(_is_cut(boxes, left, top, tiles.side, image))
    return merge(_concatenated(found), torch.cat(cut))


def merge(found: Detections, cut: Tensor) -> Detections:
    """Merge the detections of overlapping tiles, so that each object occurs once.

    The boxes of each class are processed in order of their scores, the best first:
    - a box that overlaps a better one by `SAME_IOU` is removed;
    - a cut box is removed if the fraction `PART` of it lies in a better box that is not cut;
    - two cut boxes are replaced by the box around both if the fraction `PART` of one lies in the other; the mask of the
      new box is the union of both masks.

    Args:
        cut: whether each box ends at an inner edge of its tile `[N]`.
    """
    boxes = found.boxes.clone()
    kept: list[int] = []
    codes = list(found.outlines.codes) if found.outlines else []
    # Uncut boxes go first, because a part of an object may have a higher score than the whole.
    order = sorted(range(len(found)), key=lambda index: (bool(cut[index]), -float(found.scores[index])))
    for label in found.labels.unique().tolist():
        indices = torch.tensor([index for index in order if found.labels[index] == label])
        # Keep the best box, remove the boxes of the same object, and go on with the rest, as in NMS.
        while len(indices):
            best, rest = int(indices[0]), indices[1:]
            kept.append(best)
            gone, parts = _absorb(boxes, best, rest, cut)
            indices = rest[~gone]
            if codes and parts.any():
                codes[best] = united([codes[best], *(codes[index] for index in rest[parts].tolist())])
    chosen = torch.tensor(sorted(kept, key=lambda index: -float(found.scores[index])), dtype=torch.long)
    outlines = found.outlines and replace(found.outlines, codes=tuple(codes))
    return replace(found, boxes=boxes, outlines=outlines).where(chosen)


def _absorb(boxes: Tensor, best: int, rest: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of the boxes at indices `rest` show the same object as the box at index `best`: `[M]`.

    If that box is cut, it grows in place around the cut boxes that belong to it. Also return which boxes these are.
    """
    gone, joined = torch.zeros(len(rest), dtype=torch.bool), torch.zeros(len(rest), dtype=torch.bool)
    while True:  # until the box has stopped growing
        sides = (
            torch.minimum(boxes[best, 2:], boxes[rest, 2:]) - torch.maximum(boxes[best, :2], boxes[rest, :2])
        ).clamp(0)
        inter, own, others = sides.prod(1), _area(boxes[best]), _area(boxes[rest])
        same = inter > SAME_IOU * (own + others - inter)
        part = cut[rest] & (inter > PART * (torch.minimum(own, others) if cut[best] else others))
        more = (same | part) & ~gone
        if not more.any():
            return gone, joined
        gone |= more
        if cut[best] and part.any():
            joined |= part
            parts = boxes[rest[part]]
            boxes[best, :2] = torch.minimum(boxes[best, :2], parts[:, :2].amin(0))
            boxes[best, 2:] = torch.maximum(boxes[best, 2:], parts[:, 2:].amax(0))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _is_cut(boxes: Tensor, left: int, top: int, side: int, image: Tensor) -> Tensor:
    """Return for each of N boxes whether it ends at an edge of its tile that is not an edge of the image: `[N]`."""
    height, width = image.shape[-2:]
    margin = max(2.0, EDGE * side)
    # Coordinates of the boxes, position of the edge, whether it is inside the image, and the direction inwards.
    edges = [(boxes[:, 0], left, left > 0, 1), (boxes[:, 1], top, top > 0, 1)]
    edges += [(boxes[:, 2], left + side, left + side < width, -1), (boxes[:, 3], top + side, top + side < height, -1)]
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    for values, edge, is_inner, inwards in edges:
        if is_inner:
            cut |= (values - edge) * inwards < margin
    return cut


def _concatenated(parts: list[Detections]) -> Detections:
    boxes, scores, labels = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels")
    )
    names = tuple(name for part in parts for name in part.names)
    first = parts[0].outlines
    codes = tuple(code for part in parts if part.outlines for code in part.outlines.codes)
    return replace(
        parts[0], boxes=boxes, scores=scores, labels=labels, names=names, outlines=first and replace(first, codes=codes)
    )


def _moved_outlines(outlines: Outlines, left: int, top: int, image: Tensor) -> Outlines:
    """Return the masks of a tile as masks of the image, from which the tile was cut at (left, top)."""
    size = (image.shape[-2], image.shape[-1])
    return Outlines(tuple(moved(code, left, top, size) for code in outlines.codes), size)
