"""RoIAlign over a pyramid: torchvision's operator, or matrix products where a CPU trains on small maps.

torchvision's backward pass on CPUs adds into the feature map cell by cell on one thread; it took a third of a training
step. Bilinear sampling is separable, so the same numbers are two products with small interpolation matrices,
which use all cores and bf16 (five to ten times faster on maps of 32x32). On GPUs the operator adds in no fixed order;
where deterministic algorithms are asked for, the products take its place, at the price of memory on large maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from backbones import FeatureInfo

CANONICAL_SIDE = 224  # pixels of a box that is read from level 4, stride 16
LARGEST_MAP = 64 * 64  # cells; the products grow with the map, the operator does not


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
        if not (self.training and _wants_products(maps[0])):
            return super().forward(x, boxes, image_shapes)
        levels = self.map_levels(boxes)
        image = torch.cat([torch.full((len(b),), n, device=b.device) for n, b in enumerate(boxes)])
        rois = torch.cat(boxes)
        parts, order = [], []
        for level, (features, scale) in enumerate(zip(maps, self.scales, strict=True)):
            places = torch.where(levels == level)[0]
            order.append(places)
            size, samples = self.output_size[0], self.sampling_ratio
            parts.append(align_by_products(features, rois[places] * scale, image[places], size, samples))
        return torch.cat(parts)[torch.cat(order).argsort()]


def _wants_products(finest: Tensor) -> bool:
    if finest.device.type == "cpu":
        return finest[0, 0].numel() <= LARGEST_MAP
    return torch.are_deterministic_algorithms_enabled()


def align_by_products(features: Tensor, boxes: Tensor, image: Tensor, size: int, samples: int) -> Tensor:
    """RoIAlign of boxes `[R, 4]` xyxy in cells of `features` `[N, C, H, W]`: `[R, C, size, size]`.

    Args:
        image: the boxes' images `[R]`, rising.
    """
    channels, height, width = features.shape[1:]
    rows = _interpolation(boxes[:, 1], boxes[:, 3], height, size, samples).to(features.dtype)
    columns = _interpolation(boxes[:, 0], boxes[:, 2], width, size, samples).to(features.dtype)
    counts = torch.bincount(image, minlength=len(features)).tolist()
    pooled = []
    for cells, down, across in zip(features, rows.split(counts), columns.split(counts), strict=True):
        count = len(down)
        lines = down.reshape(count * size, height) @ cells.permute(1, 2, 0).reshape(height, width * channels)
        lines = lines.view(count, size, width, channels).transpose(1, 2).reshape(count, width, size * channels)
        pooled.append((across @ lines).view(count, size, size, channels).permute(0, 3, 2, 1))
    return torch.cat(pooled)


def _interpolation(low: Tensor, high: Tensor, cells: int, size: int, samples: int) -> Tensor:
    """How much each of `cells` along one axis counts in each of `size` bins from low to high: `[R, size, cells]`."""
    extent = (high - low).clamp(min=1)  # as torchvision's unaligned RoIAlign: no box is narrower than a cell
    places = torch.arange(size * samples, device=low.device)
    at = low[:, None] + extent[:, None] * (places + 0.5) / (size * samples)
    inside = (at >= -1) & (at <= cells)
    distance = (at.clamp(0, cells - 1)[..., None] - torch.arange(cells, device=low.device)).abs()
    weights = (1 - distance).clamp(min=0) * inside[..., None]
    return weights.view(len(low), size, samples, cells).mean(dim=2)
