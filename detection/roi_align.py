"""RoIAlign over a pyramid (He et al. 2017, section 3): torchvision's operator, or sums of weighted vectors.

On a CPU, torchvision's operator uses one thread and needs fp32 and contiguous maps. Its forward and backward pass took
a third of a training step. But each cell of a RoI is a weighted sum of feature vectors, and torch's embedding bags
compute such sums on all cores, in any type and in channels_last memory, 10 to 20 times as fast.

On a GPU, the operator sums its gradient in no fixed order. If deterministic algorithms are requested, the sums
of feature vectors are used there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops._utils import convert_boxes_to_roi_format
from torchvision.ops.poolers import LevelMapper

from backbones import FeatureInfo
from backbones.common import devices

CANONICAL_SIDE = 224  # pixels: a box of this side is read from level 4, stride 16


class PyramidRoIAlign(MultiScaleRoIAlign):
    """RoIAlign that reads each box from the pyramid level that fits the box's size (Lin et al. 2017, equation 1).

    Args:
        features: the levels, finest first.
        size: number of cells along a side of the result `[R, C, size, size]`.
        samples: number of sampling points along each side of a cell.
    """

    def __init__(self, features: Sequence[FeatureInfo], size: int, samples: int) -> None:
        super().__init__([info.name for info in features], size, samples)
        self.scales = [1 / info.stride for info in features]
        finest, coarsest = (info.stride.bit_length() - 1 for info in (features[0], features[-1]))
        self.map_levels = LevelMapper(finest, coarsest, CANONICAL_SIDE, canonical_level=4)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Return the features `[R, C, size, size]` of each image's boxes `[B, 4]` xyxy in pixels of the input."""
        maps = [x[name] for name in self.featmap_names]
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return super().forward(x, boxes, image_shapes)
        align = align_by_rows if self._by_rows(maps[0]) else align_by_levels
        size, samples = self.output_size[0], self.sampling_ratio
        return align(maps, self.scales, boxes, self.map_levels(boxes), size=size, samples=samples)

    def _by_rows(self, features: Tensor) -> bool:
        """Return whether to compute sums of weighted feature vectors (rows) instead of calling torchvision's operator.

        Predictions in fp32 use the operator, so that they equal torchvision's exactly.
        """
        on_cpu = features.device.type == "cpu" and not devices.reading_waits(features.device)
        has_gain = on_cpu or torch.are_deterministic_algorithms_enabled()
        exact = not self.training and features.dtype == torch.float32
        return has_gain and not exact


def align_by_levels(
    maps: Sequence[Tensor], scales: Sequence[float], boxes: list[Tensor], levels: Tensor, *, size: int, samples: int
) -> Tensor:
    """Return what `MultiScaleRoIAlign` returns, but read the numbers of boxes of all levels together.

    The arguments are those of `align_by_rows`.
    """
    rois = convert_boxes_to_roi_format(boxes)
    if len(maps) == 1:
        return roi_align(maps[0], rois, size, scales[0], samples)
    order = levels.argsort(stable=True)
    counts = (levels[:, None] == torch.arange(len(maps), device=levels.device)).sum(0).tolist()
    pooled = maps[0].new_zeros((len(rois), maps[0].shape[1], size, size))
    for features, scale, chosen in zip(maps, scales, order.split(counts), strict=True):
        pooled[chosen] = roi_align(features, rois[chosen], size, scale, samples).to(pooled.dtype)
    return pooled


def align_by_rows(
    maps: Sequence[Tensor], scales: Sequence[float], boxes: list[Tensor], levels: Tensor, *, size: int, samples: int
) -> Tensor:
    """Return the RoIAlign of boxes as sums of weighted feature vectors: `[R, C, size, size]`, channels last.

    Args:
        maps: feature maps `[N, C, H, W]`, one for each level.
        scales: for each map, its number of cells per pixel of the image.
        boxes: for each image its boxes `[B, 4]` xyxy in pixels. R is the number of boxes in all images.
        levels: index of the map that each box is read from `[R]`.
        size: number of cells along a side of the result.
        samples: number of sampling points along each side of a cell.
    """
    device, whole = levels.device, torch.int32
    # Put the feature vectors of all maps and images into one table, row by row, and note where each map begins.
    table = torch.cat([features.permute(0, 2, 3, 1).flatten(0, 2) for features in maps])
    begins = torch.tensor([0, *accumulate(m[:, 0].numel() for m in maps)], dtype=whole, device=device)[levels]
    height, width = torch.tensor([m.shape[2:] for m in maps], dtype=whole, device=device)[levels].unbind(1)
    image = torch.cat([torch.full((len(b),), n, dtype=whole, device=device) for n, b in enumerate(boxes)])
    # Scale the boxes to cells of their map, and find the rows and columns that each bin reads. Bilinear interpolation
    # is separable: the weight of a vector is the product of the weights of its row and its column.
    rois = torch.cat(boxes) * torch.tensor(scales, device=device)[levels, None]
    rows, row_weights = _taps(rois[:, 1], rois[:, 3], height, size, samples)
    columns, column_weights = _taps(rois[:, 0], rois[:, 2], width, size, samples)
    lines = begins[:, None, None] + ((image * height)[:, None, None] + rows) * width[:, None, None]
    indices = lines[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    # Sum the (2 * samples)^2 weighted vectors of each bin.
    each = (len(rois) * size**2, (2 * samples) ** 2)
    pooled: Tensor = _WeightedRows.apply(table, indices.reshape(each), weights.reshape(each))
    return pooled.view(len(rois), size, size, table.shape[1]).permute(0, 3, 1, 2)


def _taps(low: Tensor, high: Tensor, cells: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return which cells of the feature map each bin of a box reads along one axis, and the weights of these cells.

    Args:
        low, high: ends of the boxes along the axis `[R]`, in cells.
        cells: number of cells of each box's map `[R]`.
        size: number of bins of a box.
        samples: number of sampling points of a bin. Each one interpolates between two cells.

    Returns:
        Indices, int32, and weights, both `[R, size, 2 * samples]`.
    """
    side = (high - low).clamp(min=1)[:, None, None] / size  # as in torchvision, no box is narrower than a cell
    # Place the sampling points, in the operator's order of operations, so that they round as its points do.
    bins = torch.arange(size, device=low.device)[:, None]
    steps = torch.arange(samples, device=low.device) + 0.5
    at = low[:, None, None] + bins * side + steps * side / samples
    # Points more than a cell outside the map count as 0, others are moved to its edge.
    last = cells[:, None, None] - 1
    inside = (at >= -1) & (at <= last + 1)
    at = torch.where(inside, at, 0).clamp(min=0).minimum(last.to(at.dtype))
    # Interpolate between the two nearest cells, and average over the points.
    first = at.int()
    fraction = at - first
    indices = torch.stack([first, (first + 1).minimum(last)], dim=-1)
    weights = torch.stack([1 - fraction, fraction], dim=-1) * (inside[..., None] / samples)
    return indices.flatten(2), weights.flatten(2)


class _WeightedRows(torch.autograd.Function):
    """Differentiable sums of weighted rows of a table `[M, C]`. Indices and weights `[K, T]` give `[K, C]`."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        weights = weights.to(table.dtype)
        ctx.save_for_backward(indices, weights)
        ctx.rows = len(table)
        return F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Return the gradient of the table. A row's gradient is the weighted sum over the bins that read the row.

        It is computed by embedding bags too, on all cores, because the backward pass of torch's embedding bag is
        serial.
        """
        indices, weights = ctx.saved_tensors
        # Sort the readings by row. A stable sort fixes the order of the sums on GPUs as well.
        flat, order = indices.flatten().sort(stable=True)
        counts = torch.bincount(flat, minlength=ctx.rows)
        readers = order // indices.shape[1]
        begin = counts.cumsum(0) - counts
        weights = weights.flatten()[order]
        rows = F.embedding_bag(readers, gradient.contiguous(), begin, per_sample_weights=weights, mode="sum")
        return rows, None, None
