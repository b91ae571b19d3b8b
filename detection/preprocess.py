"""The one place where images are resized and normalised; it is part of the model and saved with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes


class ImageTransform(GeneralizedRCNNTransform):
    """Normalise, resize, pad to a batch; afterwards map detections back to the original pixels.

    An image is a uint8 or a 0..1 float tensor `[C, H, W]`. It is scaled until its short side is `min_size`, or its
    target's `short_side` (multi-scale training), or its long side is `max_size`.

    Args:
        mean, std: of inputs in 0..1, one value a channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, min_size: int, max_size: int) -> None:
        super().__init__(min_size, max_size, list(mean), list(std))

    def normalize(self, image: Tensor) -> Tensor:
        return super().normalize(image / 255 if image.dtype == torch.uint8 else image)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        if target is None or "short_side" not in target:
            resized, target = super().resize(image, target)
        else:
            resized = self._resize_to(image, int(target["short_side"]))
            target["boxes"] = resize_boxes(target["boxes"], image.shape[-2:], resized.shape[-2:])
        if target is not None and "ignore" in target:
            target["ignore"] = resize_boxes(target["ignore"], image.shape[-2:], resized.shape[-2:])
        return resized, target

    def _resize_to(self, image: Tensor, short_side: int) -> Tensor:
        sides = image.shape[-2:]
        scale = min(short_side / min(sides), self.max_size / max(sides))
        if scale == 1:
            return image
        return F.interpolate(
            image[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=True, align_corners=False
        )[0]

    def describe(self) -> dict[str, object]:
        """What a user of the weights must know to feed them: sizes in pixels, mean and std of inputs in 0..1."""
        return {
            "min_size": self.min_size[-1],
            "max_size": self.max_size,
            "mean": list(self.image_mean),
            "std": list(self.image_std),
        }
