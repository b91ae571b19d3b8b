"""RoIAlign over a pyramid: torchvision's operator, or sums of weighted rows on a CPU.

torchvision's operator uses one thread of a CPU, fp32 and contiguous maps; its forward and backward pass took a third
of a training step. Each cell of a box is a weighted sum of feature vectors, which torch's embedding bags compute
on all cores, in any type and in channels_last memory: ten to twenty times as fast. On GPUs the operator adds in no
fixed order; where deterministic algorithms are asked for, the rows take its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from backbones import FeatureInfo

CANONICAL_SIDE = 224  # pixels of a box that is read from level 4, stride 16


class RoIPool(MultiScaleRoIAlign):
    """Features of boxes, each read from the level of its size (Lin et al. 2017, equation 1): `[R, C, size, size]`.

    Args:
        features: the levels, finest first.
        size: cells along a side of the result.
        samples: along each side of a cell.
    """

    def __init__(self, features: Sequence[FeatureInfo], size: int, samples: int) -> None:
        super().__init__([info.name for info in features], size, samples)
        self.scales = [1 / info.stride for info in features]
        finest, coarsest = (info.stride.bit_length() - 1 for info in (features[0], features[-1]))
        self.map_levels = LevelMapper(finest, coarsest, CANONICAL_SIDE, canonical_level=4)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        maps = [x[name] for name in self.featmap_names]
        if not self._by_rows(maps[0]):
            return super().forward(x, boxes, image_shapes)
        size, samples = self.output_size[0], self.sampling_ratio
        return align_by_rows(maps, self.scales, boxes, self.map_levels(boxes), size=size, samples=samples)

    def _by_rows(self, features: Tensor) -> bool:
        """Not where predictions are torchvision's to the last bit, in fp32; exported programs keep the operator too."""
        wanted = features.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
        exact = not self.training and features.dtype == torch.float32
        return wanted and not exact and not torch.compiler.is_compiling()


def align_by_rows(
    maps: Sequence[Tensor], scales: Sequence[float], boxes: list[Tensor], levels: Tensor, *, size: int, samples: int
) -> Tensor:
    """RoIAlign of each image's boxes xyxy on `maps` `[N, C, H, W]`: `[R, C, size, size]`, channels last.

    Args:
        scales: cells of a map per pixel.
        levels: which map each box is read from `[R]`.
    """
    device, whole = levels.device, torch.int32
    table = torch.cat([features.permute(0, 2, 3, 1).flatten(0, 2) for features in maps])
    begins = torch.tensor([0, *accumulate(m[:, 0].numel() for m in maps)], dtype=whole, device=device)[levels]
    height, width = torch.tensor([m.shape[2:] for m in maps], dtype=whole, device=device)[levels].unbind(1)
    image = torch.cat([torch.full((len(b),), n, dtype=whole, device=device) for n, b in enumerate(boxes)])
    rois = torch.cat(boxes) * torch.tensor(scales, device=device)[levels, None]
    rows, row_weights = _taps(rois[:, 1], rois[:, 3], height, size, samples)
    columns, column_weights = _taps(rois[:, 0], rois[:, 2], width, size, samples)
    lines = begins[:, None, None] + ((image * height)[:, None, None] + rows) * width[:, None, None]
    places = lines[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    each = (len(rois) * size**2, (2 * samples) ** 2)
    pooled: Tensor = _WeightedRows.apply(table, places.reshape(each), weights.reshape(each))
    return pooled.view(len(rois), size, size, table.shape[1]).permute(0, 3, 1, 2)


def _taps(low: Tensor, high: Tensor, cells: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """What each of `size` bins from low to high `[R]` reads of `cells` `[R]` along one axis, and how much each counts.

    Returns:
        Places, int32, and weights, both `[R, size, 2 * samples]`.
    """
    side = (high - low).clamp(min=1)[:, None, None] / size  # torchvision's RoIAlign: no box is narrower than a cell
    bins = torch.arange(size, device=low.device)[:, None]
    steps = torch.arange(samples, device=low.device) + 0.5
    at = low[:, None, None] + bins * side + steps * side / samples  # in the operator's order, to round as it does
    last = cells[:, None, None] - 1
    inside = (at >= -1) & (at <= last + 1)
    at = torch.where(inside, at, 0).clamp(min=0).minimum(last.to(at.dtype))
    first = at.int()
    share = at - first
    places = torch.stack([first, (first + 1).minimum(last)], dim=-1)
    weights = torch.stack([1 - share, share], dim=-1) * (inside[..., None] / samples)
    return places.flatten(2), weights.flatten(2)


class _WeightedRows(torch.autograd.Function):
    """Sums of weighted rows of a table `[M, C]`: places and weights `[K, T]` give `[K, C]`."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        weights = weights.to(table.dtype)
        ctx.save_for_backward(places, weights)
        ctx.rows = len(table)
        return F.embedding_bag(places, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The same sums the other way: each row of the table gathers what read it. Torch's own backward is serial."""
        places, weights = ctx.saved_tensors
        flat, order = places.flatten().sort(stable=True)  # on GPUs the order of a sum is that of the readers
        counts = torch.bincount(flat, minlength=ctx.rows)
        readers = order // places.shape[1]
        begin = counts.cumsum(0) - counts
        weights = weights.flatten()[order]
        rows = F.embedding_bag(readers, gradient.contiguous(), begin, per_sample_weights=weights, mode="sum")
        return rows, None, None
