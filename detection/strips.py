"""Masks of objects as strips: rectangles, mostly one pixel wide, that together cover an object.

Strips `[S, 5]` int32 hold, for all objects of an image, the index of the object and left, right, top and bottom in
pixels; right and bottom are exclusive. They are ordered by object. A mask has one or two strips per column, so that
the masks of hundreds of objects in a large image need a few megabytes, where bitmaps need gigabytes.

`mask_targets` cuts the targets of RoIs out of strips. The result is that of torchvision, which resizes bitmaps of the
whole image and applies RoIAlign to them (He et al. 2017, section 3): both are sums that are linear in the pixels, and
the sum over the pixels of a strip has a closed form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from backbones.common import devices

FIELDS = 5  # object, left, right, top, bottom
PAIRS = 1 << 15  # pairs of a RoI and a strip (or row of pixels) that are computed at a time: about 40 MB


def strips_of_bitmaps(masks: Tensor) -> Tensor:
    """Return the strips `[S, 5]` of masks `[N, H, W]`, in which nonzero pixels belong to the object."""
    columns = (masks != 0).transpose(1, 2)
    edge = columns.new_zeros((*columns.shape[:2], 1))
    changes = torch.cat([edge, columns], dim=2) != torch.cat([columns, edge], dim=2)
    # Changes alternate within each column: begin, end, begin, end, ...
    owner, left, at = changes.nonzero().unbind(1)
    return torch.stack([owner[0::2], left[0::2], left[0::2] + 1, at[0::2], at[1::2]], dim=1).int()


def scaled(strips: Tensor, size: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Return the strips `[S, 5]` of masks that are resized from `size` to `new` (height, width), without smoothing.

    Pixels are those of torch's nearest neighbours, as in torchvision. Strips that get no pixel are left out, but stay
    with a width or height of 0 where leaving them out would wait for a GPU.
    """
    if size == new:
        return strips
    owner, *sides = strips.unbind(1)
    columns, rows = (_new_positions(a, b, strips.device) for a, b in ((size[1], new[1]), (size[0], new[0])))
    left, right, top, bottom = (
        table[side.long()] for table, side in zip((columns, columns, rows, rows), sides, strict=True)
    )
    found = torch.stack([owner, left, right, top, bottom], dim=1)
    return found if devices.reading_waits(strips.device) else found[(left < right) & (top < bottom)]


def _new_positions(length: int, new: int, device: torch.device) -> Tensor:
    """Return for each pixel edge 0 to `length` its position in the resized image `[length + 1]` int32."""
    # Find the pixel that each new pixel is copied from, in torch's order of operations.
    scale = torch.tensor(length, dtype=torch.float32) / new
    source = (torch.arange(new, dtype=torch.float32, device=device) * scale).int().clamp(max=length - 1)
    # A pixel begins at the first new pixel that is not copied from an earlier one.
    edges = torch.arange(length + 1, dtype=torch.int32, device=device)
    return torch.searchsorted(source, edges, out_int32=True)


@dataclass(frozen=True)
class MaskedRois:
    """RoIs of one image, and the masks of the image's objects.

    Attributes:
        strips: `[S, 5]`.
        boxes: the RoIs `[R, 4]` xyxy in pixels, inside the image.
        objects: index of the object of each RoI `[R]`.
        count: number of objects of the image.
        size: height and width of the image in pixels.
    """

    strips: Tensor
    boxes: Tensor
    objects: Tensor
    count: int
    size: tuple[int, int]


def mask_targets(strips: Tensor, boxes: Tensor, objects: Tensor, size: int, image: tuple[int, int]) -> Tensor:
    """Return the fraction of each cell of boxes that the mask of the box's object covers: `[R, size, size]`.

    Each cell has as many sampling points as torchvision's RoIAlign of bitmaps has: at least one per pixel.

    Args:
        strips, boxes, objects: see `MaskedRois`.
        size: number of cells along a side of a box.
        image: height and width of the image in pixels.
    """
    return targets_of_images([MaskedRois(strips, boxes, objects, 0, image)], size)


def targets_of_images(images: Sequence[MaskedRois], size: int) -> Tensor:
    """Return what `mask_targets` returns, for the RoIs of all images together: `[R, size, size]`.

    A GPU is waited for once.
    """
    # Number the objects of all images.
    begins = [0, *accumulate(each.count for each in images)][: len(images)]
    strips = _joined([_renumbered(each.strips, at) for each, at in zip(images, begins, strict=True)])
    objects = torch.cat([each.objects + at for each, at in zip(images, begins, strict=True)])
    boxes = torch.cat([each.boxes for each in images])
    # The sides of the image of each RoI are filled on the device.
    height, width = (
        torch.cat([torch.full_like(each.boxes[:, 0], each.size[axis]) for each in images]) for axis in (0, 1)
    )
    targets = boxes.new_zeros((len(boxes), size, size))
    for chunk in _chunks(strips, objects, boxes):
        rows = chunk.rows
        _, left, right, top, bottom = torch.where(chunk.used, strips.T[:, chunk.indices], 0)  # unused: without a size
        low_x, low_y, high_x, high_y = boxes[rows].T
        across = _coverage(left, right, low_x, high_x, size, width[rows], chunk.columns)
        down = _coverage(top, bottom, low_y, high_y, size, height[rows], chunk.lines)
        # A strip covers the product of its fractions of a row and of a column of cells; autocast would round it to 16
        # bits.
        with torch.autocast(boxes.device.type, enabled=False):
            targets[rows] = down.transpose(1, 2) @ across
    return targets


def _renumbered(strips: Tensor, begin: int) -> Tensor:
    """Return strips whose objects are numbered from `begin`."""
    return torch.cat([strips[:, :1] + begin, strips[:, 1:]], dim=1) if begin else strips


def _joined(strips: Sequence[Tensor]) -> Tensor:
    """Join the strips of several images. Those of one image, which may be many, are not copied."""
    return torch.cat(list(strips)) if len(strips) > 1 else strips[0]


class _Chunk(NamedTuple):
    """P boxes of similar sizes, whose objects have at most L strips each.

    Attributes:
        rows: indices of the boxes `[P]`.
        indices: indices of their objects' strips `[P, L]`.
        used: which of these are used `[P, L]`.
        columns, lines: number of pixels that the widest and the highest box touch.
    """

    rows: Tensor
    indices: Tensor
    used: Tensor
    columns: int
    lines: int


def _chunks(strips: Tensor, objects: Tensor, boxes: Tensor) -> Iterator[_Chunk]:
    """Yield groups of boxes. Boxes of objects without strips are left out."""
    owners = strips[:, 0].contiguous()
    begin, end = (torch.searchsorted(owners, objects.to(owners.dtype), right=right) for right in (False, True))
    lengths = end - begin
    # The work of a box grows with its side and with the number of its strips.
    work = torch.where(lengths > 0, lengths.maximum((boxes[:, 2:] - boxes[:, :2]).amax(1).ceil().long()), 0)
    order = work.argsort(stable=True)
    spans = (boxes[:, 2:] - boxes[:, :2].floor()).long()
    # Read all numbers on which sizes depend at once: reading waits for a GPU.
    works, counts, columns, lines = torch.stack([work, lengths, *spans.T])[:, order].tolist()
    start = works.count(0)
    while start < len(order):
        # Add boxes while the padded table stays small. A single box is always taken.
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * works[stop] <= PAIRS:
            stop += 1
        rows = order[start:stop]
        steps = torch.arange(max(counts[start:stop]), device=strips.device)
        used = steps < lengths[rows, None]
        indices = torch.where(used, begin[rows, None] + steps, 0)
        yield _Chunk(rows, indices, used, max(columns[start:stop]), max(lines[start:stop]))
        start = stop


def _coverage(begin: Tensor, end: Tensor, low: Tensor, high: Tensor, size: int, length: Tensor, most: int) -> Tensor:
    """Return the fraction of each cell's sampling points that read a strip along one axis: `[P, L, size]`.

    Args:
        begin, end: sides of strips `[P, L]` in pixels.
        low, high: sides of boxes `[P]` in pixels.
        size: number of cells of a box.
        length: number of pixels of each box's image `[P]`.
        most: largest number of whole pixels between the pixel in which a box begins and its end.
    """
    base = low.floor()
    edges = most + 3
    table = _before_edges(low - base, (high - low).clamp(min=1) / size, (length - base)[:, None, None], size, edges)
    begin, end = ((side - base[:, None].int()).clamp(0, edges - 1) for side in (begin, end))
    first = torch.arange(len(low), device=low.device)[:, None] * edges
    rows = table.flatten(0, 1)
    return rows[first + end] - rows[first + begin]


def _before_edges(low: Tensor, cell: Tensor, length: Tensor, size: int, edges: int) -> Tensor:
    """Return the weight of the pixels before each edge between two pixels, in each cell: `[P, edges, size]`.

    Args:
        low: begin of the boxes `[P]`, 0 to 1 pixel behind the first edge.
        cell: side of a cell `[P]` in pixels. As in torchvision, no box is smaller than a pixel.
        length: last edge of the image `[P, 1, 1]`.
        size: number of cells of a box.
        edges: number of edges.
    """
    edge = torch.arange(edges, device=low.device)[None, :, None]
    begin = (low[:, None] + torch.arange(size, device=low.device) * cell[:, None])[:, None]
    cell = cell[:, None, None]
    points = cell.ceil()
    step = cell / points
    # A point at s reads the pixels before edge t with the weight clamp(t - s, 0, 1), by bilinear interpolation. That
    # is the growth of max(0, t - s) since the edge before. Sum it over the points at 1/2, 3/2, ... steps of a cell.
    offset = (edge - begin).clamp(min=0).minimum(cell + 2)
    count = (offset / step - 0.5).ceil_().clamp_(min=0).minimum(points)
    sums = count * (offset - step / 2 * count)
    weight = sums.clone()
    weight[:, 1:] -= sums[:, :-1]
    weight = torch.where(offset >= cell + 1, 1, weight / points)
    # Points beyond the last pixel's centre read that pixel in full, but points outside the image read nothing.
    inside = (((length - begin) / step - 0.5).floor() + 1).clamp(min=0).minimum(points) / points
    return torch.where(edge >= length, inside, weight)
