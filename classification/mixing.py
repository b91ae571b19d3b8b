"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of batches, with timm's implementation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.data.mixup import FastCollateMixup
from torch import Tensor

from backbones.errors import UserError
from classification.data.items import Item


class Mixing:
    """Collates items into mixed images `[N, C, h, w]` uint8 and soft labels `[N, num_classes]`.

    The random draw is a function of the seed, the first image's index and the sum of its pixels, so that a resumed run
    mixes as an uninterrupted one does.

    Args:
        mixup: alpha of mixup's Beta distribution; 0 for none.
        cutmix: alpha of CutMix's Beta distribution; 0 for none. If both are above 0, each batch gets one at random.
        num_classes: number of classes.
        seed: seed of the run.
    """

    def __init__(self, *, mixup: float, cutmix: float, num_classes: int, seed: int) -> None:
        self.seed = seed
        self._mix = FastCollateMixup(mixup, cutmix, label_smoothing=0.0, num_classes=num_classes)

    def __call__(self, items: Sequence[Item]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mix a batch with the same batch in reverse order.

        Raises:
            UserError: the images are floating arrays, or their number is odd.
        """
        images, targets = zip(*items, strict=True)
        self._check(images)
        # timm draws from numpy's global generator: seed it for this batch, then restore its state.
        before = np.random.get_state()
        np.random.seed(self._draw(images[0], targets[0]["index"]))
        try:
            mixed, labels = self._mix([(i.numpy(), t["label"]) for i, t in zip(images, targets, strict=True)])
        finally:
            np.random.set_state(before)
        return mixed, {"label": labels, "index": torch.tensor([target["index"] for target in targets])}

    def _check(self, images: Sequence[Tensor]) -> None:
        if images[0].dtype != torch.uint8:
            raise UserError("--mixup/--cutmix: work only on uint8 images, not on floating-point arrays; set both to 0")
        if len(images) % 2:
            raise UserError(
                "--batch-size: mixup and CutMix need an even number of images in each process, not "
                f"{len(images)}; change --batch-size"
            )

    def _draw(self, image: Tensor, index: int) -> int:
        """Return a seed for mixing a batch. It depends on the pixels, so that it differs between epochs."""
        return int(np.random.SeedSequence((self.seed, index, int(image.sum()))).generate_state(1)[0])
