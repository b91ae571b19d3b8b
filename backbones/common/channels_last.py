"""Images as tensors in the memory order channels_last, which decoders write and convolutions read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.errors import UserError


def to_tensor(image: np.ndarray) -> Tensor:
    """Return pixels `[H, W, C]` as a tensor `[C, H, W]`, which keeps their order in memory."""
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images `[C, h, w]` to a batch `[N, C, h, w]`, in the memory order channels_last if they are in it.

    To change the order takes ten times as long as to keep it.

    Raises:
        UserError: the images are bytes and floats. Stacking would turn bytes into floats that are not normalised.
    """
    if len({image.dtype for image in images}) > 1:
        raise UserError(
            "--data: a batch contains both uint8 images and floating-point arrays; store all images in one type"
        )
    if not images[0].permute(1, 2, 0).is_contiguous():
        return torch.stack(list(images))
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def pad_image(image: Tensor, height: int, width: int) -> Tensor:
    """Pad an image `[C, h, w]` of `to_tensor` with zeros right and below, in its memory order."""
    if image.shape[1:] == (height, width):
        return image
    right, below = width - image.shape[2], height - image.shape[1]
    return F.pad(image.permute(1, 2, 0), (0, 0, 0, right, 0, below)).permute(2, 0, 1)
