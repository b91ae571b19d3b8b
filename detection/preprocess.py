"""Normalises and resizes images inside the model; sizes, mean and std are saved with the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from backbones.common.constants import constant
from detection.strips import scaled

LEAST_SIDE = 1e-2  # pixels of a box's side after resizing


class InputDescription(TypedDict):
    """Description of a model's input, stored in the header of a weights file for its users.

    Attributes:
        min_size: short side in pixels after resizing.
        max_size: largest long side in pixels after resizing.
        mean, std: of inputs in 0..1, one value per channel.
    """

    min_size: int
    max_size: int
    mean: list[float]
    std: list[float]


def resize_boxes(boxes: Tensor, size: Sequence[int], new: Sequence[int]) -> Tensor:
    """Return boxes `[N, 4]` xyxy of an image of a size (height, width) after the image is resized to a new size.

    The result equals torchvision's, which makes four tensors on the device.
    """
    # Divide in float32, as torchvision does.
    height, width = (float(np.float32(after) / np.float32(before)) for after, before in zip(new, size, strict=True))
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([left * width, top * height, right * width, bottom * height], dim=1)


class Preprocessor(GeneralizedRCNNTransform):
    """Normalises and resizes images, pads them to a batch, and maps detections back to the original pixels.

    An image is a uint8 tensor `[C, H, W]`, or a float tensor in 0..1. It is resized until its short side has `min_size`
    pixels (or the `short_side` of its target, in multi-scale training) or its long side has `max_size`.

    Args:
        mean, std: of inputs in 0..1, one value per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, min_size: int, max_size: int) -> None:
        super().__init__(min_size, max_size, list(mean), list(std))

    def torch_choice(self, k: list[int]) -> int:
        """Return the only short side. Draw a random number as torchvision does, so that equal seeds stay equal."""
        torch.rand(1)
        return k[0]

    def normalize(self, image: Tensor) -> Tensor:
        """Normalise an image in 0..1, or uint8 in 0..255, with the model's mean and std."""
        is_bytes = image.dtype == torch.uint8
        image = image.float().div_(255) if is_bytes else image
        mean, std = (constant(tuple(each), like=image)[:, None, None] for each in (self.image_mean, self.image_std))
        # Change the copy in place: a large image needs a quarter of the memory. The caller's floats stay as they are.
        return (image.sub_(mean) if is_bytes else image - mean).div_(std)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize an image `[C, H, W]`, and the boxes, masks and ignored regions of its target in the same way."""
        chosen = None if target is None else target.get("short_side")
        if chosen is None and not self._is_thin(image):
            resized, _ = super().resize(image)
        else:
            resized = self._resize_to(image, self.min_size[-1] if chosen is None else int(chosen))
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], image.shape[-2:], resized.shape[-2:])
        if target is not None:
            # Rounding can make the sides of a tiny box equal; the logarithm of its size must be finite.
            corner, end = target["boxes"].split(2, dim=1)
            target["boxes"] = torch.cat([corner, torch.maximum(end, corner + LEAST_SIDE)], dim=1)
        if target is not None and "strips" in target:
            sizes = [(each.shape[-2], each.shape[-1]) for each in (image, resized)]
            target["strips"] = scaled(target["strips"], *sizes)
        if target is not None and "ignore" in target:
            target["ignore"] = resize_boxes(target["ignore"], image.shape[-2:], resized.shape[-2:])
        return resized, target

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Map boxes back to the original pixels. Masks stay as they are, on grids over their boxes."""
        masks = [each.pop("masks", None) for each in result]
        for each, shape, size in zip(result, image_shapes, original_image_sizes, strict=True):
            each["boxes"] = resize_boxes(each["boxes"], shape, size)
        return [each if own is None else {**each, "masks": own} for each, own in zip(result, masks, strict=True)]

    def grid_offset(self, size: Sequence[int]) -> tuple[float, float]:
        """Return how far the grids of masks lie right of and below their boxes in an image of size (height, width).

        RoIAlign moves the targets by half a pixel of the resized image. Resizing masks to their nearest pixels moves
        their edges the other way: by nothing at whole ratios of the sizes, and by half a pixel on average where the
        sizes have no common divisor.
        """
        scale = min(self.min_size[-1] / min(size), self.max_size / max(size))
        resized = [max(1, int(side * scale)) for side in size]
        down, right = (math.gcd(*pair) / (2 * pair[1]) for pair in zip(size, resized, strict=True))
        return right, down

    def _is_thin(self, image: Tensor) -> bool:
        """Return whether an image is so thin that its short side would be resized to less than a pixel."""
        if torch.jit.is_tracing():
            return False  # an exported model has no such branch
        return min(image.shape[-2:]) * self.max_size < max(image.shape[-2:])

    def _resize_to(self, image: Tensor, short_side: int) -> Tensor:
        """Resize an image `[C, H, W]` to a short side of `short_side` pixels, or less where `max_size` limits it."""
        sides = image.shape[-2:]
        scale = min(short_side / min(sides), self.max_size / max(sides))
        if scale == 1:
            return image
        if scale * min(sides) < 1:
            size = [max(1, int(scale * side)) for side in sides]
            return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        return F.interpolate(
            image[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=True, align_corners=False
        )[0]

    def describe(self) -> InputDescription:
        """Return sizes, mean and std, for the header of a weights file."""
        return {
            "min_size": self.min_size[-1],
            "max_size": self.max_size,
            "mean": list(self.image_mean),
            "std": list(self.image_std),
        }
