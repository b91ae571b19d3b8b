"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of a batch, through timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from timm.data.mixup import FastCollateMixup
from torch import Tensor

from backbones.errors import UserError
from classification.data.folders import Item


class Mixing:
    """Collates items into mixed images uint8 `[N, C, h, w]` and soft labels `[N, classes]`.

    The draw is a function of (seed, first image, its pixels' sum), so that a resumed run mixes as the straight one.

    Args:
        mixup: alpha of mixup's Beta distribution; 0 for none.
        cutmix: alpha of CutMix's; with both, each batch takes one of them by a toss.
    """

    def __init__(self, *, mixup: float, cutmix: float, num_classes: int, seed: int) -> None:
        self.seed = seed
        self._mix: Any = FastCollateMixup(mixup, cutmix, label_smoothing=0.0, num_classes=num_classes)

    def __call__(self, items: Sequence[Item]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mix a batch with itself in reverse order.

        Raises:
            UserError: for arrays that are no bytes, or an odd number of images.
        """
        images, targets = zip(*items, strict=True)
        self._check(images)
        # timm draws from numpy's global generator, which is left as it was found.
        before = np.random.get_state()
        np.random.seed(self._draw(images[0], targets[0]["index"]))
        try:
            mixed, labels = self._mix([(i.numpy(), t["label"]) for i, t in zip(images, targets, strict=True)])
        finally:
            np.random.set_state(before)
        return mixed, {"label": labels, "index": torch.tensor([target["index"] for target in targets])}

    def _check(self, images: Sequence[Tensor]) -> None:
        if images[0].dtype != torch.uint8:
            raise UserError("--mixup/--cutmix: mix pictures, not floating arrays; take 0 for both")
        if len(images) % 2:
            raise UserError(f"--batch-size: mixing needs an even number of images a process, got {len(images)}")

    def _draw(self, image: Tensor, index: int) -> int:
        """Differs by epoch as well: the augmented pixels do."""
        return int(np.random.SeedSequence((self.seed, index, int(image.sum()))).generate_state(1)[0])
