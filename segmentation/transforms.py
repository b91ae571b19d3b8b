"""Augments an image together with its label map. The result is a pure function of (seed, epoch, index)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backbones.common.registry import Registry, unknown_name
from segmentation.data.classes import IGNORE

if TYPE_CHECKING:
    from albumentations import Compose

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # without it, the import asks the network for a newer version

PRESETS = ("train", "light", "eval")


class Augmentation(Protocol):
    """Interface of a user's augmentation."""

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment an image `[H, W, C]` and its label map `[H, W]`, both uint8, to any size.

        All randomness must come from `random`, so that a run can be resumed and repeated. Both results are then padded
        and cropped to the size of training.
        """


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")
register_augmentation = AUGMENTATIONS.register  # @segmentation.register_augmentation("name"), for --augment name


@dataclass(frozen=True)
class Augment:
    """Augments images and label maps by a preset; all randomness is a function of seed, epoch and index.

    Args:
        preset: "train" varies the size, crops, flips and jitters colours; "light" crops and flips; "eval" changes
            nothing; or the name of a registered augmentation.
        crop: side in pixels of the square training crops.
        scales: smallest and largest factor by which "train" resizes before it crops.
        fill: colour (0..255) of a crop's pixels beyond the image; their label is `IGNORE`.
        seed: seed of the run.

    Raises:
        UserError: if the preset is unknown.
    """

    preset: str
    crop: int = 0
    scales: tuple[float, float] = (0.5, 2.0)
    fill: tuple[int, ...] = (124, 116, 104)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS and self.preset not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.preset, [*PRESETS, *AUGMENTATIONS.names()])

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, *, epoch: int, index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment an image `[H, W, C]` and its label map `[H, W]` uint8 to squares of `crop` pixels.

        Images that are no RGB uint8 keep their values, and pixels beyond them are 0.
        """
        if self.preset == "eval":
            return image, labels
        random = np.random.default_rng((self.seed, epoch, index))
        if self.preset in AUGMENTATIONS:
            image, labels = AUGMENTATIONS[self.preset](image, labels, random)
        is_rgb = image.shape[2] == 3 and image.dtype == np.uint8
        pipeline = _pipeline(self.preset, self.crop, self.scales, self.fill if is_rgb else None)
        pipeline.set_random_seed(int(random.integers(2**32)))
        out = pipeline(image=image, mask=labels)
        return out["image"], out["mask"]


@cache
def _pipeline(preset: str, crop: int, scales: tuple[float, float], fill: tuple[int, ...] | None) -> Compose:
    """Return the albumentations pipeline of a preset; without `fill` for images that are no RGB uint8.
    The import is slow, so it happens at the first image."""
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # the loader's workers already use all cores
    pad = A.PadIfNeeded(crop, crop, border_mode=cv2.BORDER_CONSTANT, fill=fill or 0, fill_mask=IGNORE)
    steps = [pad, A.RandomCrop(crop, crop)]
    if preset in PRESETS:
        steps.append(A.HorizontalFlip(p=0.5))
    if preset == "train":
        low, high = (factor - 1 for factor in scales)
        resize = A.RandomScale((low, high), interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST, p=1)
        # The strength of SSD's photometric distortion (Liu et al. 2016), applied to half of the images.
        colours = A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.03, p=0.5)
        steps = [resize, *steps, *([colours] if fill else [])]
    return A.Compose(steps)
