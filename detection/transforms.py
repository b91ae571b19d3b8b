"""Augments an image together with its boxes. The result is a pure function of (seed, epoch, index).

A preset only chooses the short side that the model resizes to (`detection.preprocess`). Images that are more than twice
as large as that are divided by a power of two before, because all later steps would process needless pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from backbones.common.registry import Registry, unknown_name
from backbones.common.shrinking import resize_ratio, shrink_factor
from detection.data.annotations import SMALLEST_SIDE

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import looks for a newer version on the network

PRESETS = ("train", "light", "eval")


class Augmentation(Protocol):
    """Interface of a user's augmentation."""

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment an image `[H, W, C]` uint8 and its boxes `[N, 4]` xyxy in pixels.

        All randomness must come from `random`, so that a run can be resumed and repeated. Boxes keep their number and
        order; they are clipped to the image afterwards, and dropped if nothing is left of them.
        """


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")
register_augmentation = AUGMENTATIONS.register  # @detection.register_augmentation("name"), for --augment name


@dataclass(frozen=True)
class Augment:
    """Augments images and boxes by a preset; all randomness is a function of seed, epoch and index.

    Args:
        preset: "train" flips, jitters colours and chooses a short side; "light" only flips; "eval" changes nothing; or
            the name of a registered augmentation.
        short_sides: short sides in pixels that "train" chooses from; empty for the model's own size.
        seed: seed of the run.
        model_sizes: short side in pixels that the model resizes to by itself, and its largest long side. With both,
            large images are shrunk for the presets "train" and "light". An augmentation of the user gets whole images,
            because it may crop a small part.

    Raises:
        UserError: if the preset is unknown.
    """

    preset: str
    short_sides: tuple[int, ...] = ()
    seed: int = 0
    model_sizes: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS and self.preset not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.preset, [*PRESETS, *AUGMENTATIONS.names()])

    def shrink_factor(self, size: tuple[int, int]) -> int:
        """Return by what an image of size (height, width) is divided first: a power of two, 1 for most images.

        The divided image is at least as large as the largest that the model resizes it to.
        """
        if self.model_sizes is None or self.preset not in ("train", "light"):
            return 1
        short_side, long_side = self.model_sizes
        short_side = max(self.short_sides) if self.preset == "train" and self.short_sides else short_side
        return shrink_factor(resize_ratio(size, short_side=short_side, long_side=long_side))

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, *, epoch: int, index: int, least_side: float = SMALLEST_SIDE
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int | None]:
        """Augment an image `[H, W, C]` uint8 and its boxes `[N, 4]` xyxy in pixels.

        Args:
            least_side: see `sanitise`.

        Returns:
            The image, the remaining boxes `[M, 4]`, their indices `[M]` among the given boxes, and the short side to
            resize to (None: the model's own).
        """
        if self.preset == "eval":
            return image, boxes, np.arange(len(boxes)), None
        random = np.random.default_rng((self.seed, epoch, index))
        if self.preset in AUGMENTATIONS:
            image, boxes = AUGMENTATIONS[self.preset](image, boxes, random)
        else:
            image, boxes = _built_in(self.preset, image, boxes, random)
        kept, indices = sanitise(boxes.astype(np.float32), image.shape[:2], least_side)
        short_side = int(random.choice(self.short_sides)) if self.preset == "train" and self.short_sides else None
        return image, kept, indices, short_side


def _built_in(
    preset: str, image: np.ndarray, boxes: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    pipeline = _pipeline(preset)
    pipeline.set_random_seed(int(random.integers(2**32)))
    out = pipeline(image=image)
    # The flip is the only step that moves boxes. albumentations' own boxes are slower, and it rounds them.
    if any(name == "HorizontalFlip" for name, _ in out["applied_transforms"]):
        boxes = mirrored(boxes, image.shape[1])
    return out["image"], boxes


def mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    """Flip boxes `[N, 4]` xyxy horizontally in an image of `width` pixels."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def sanitise(
    boxes: np.ndarray, size: Sequence[int], least_side: float = SMALLEST_SIDE
) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes `[N, 4]` xyxy to an image of size (height, width). Return those with an area, and their indices.

    The rule for an area is the same as for annotation files; a box of one pixel is kept.

    Args:
        least_side: a box has an area if both sides are longer than this, in pixels. The sides of a shrunk image's boxes
            are compared with `SMALLEST_SIDE` divided by the same factor.
    """
    height, width = size
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    indices = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > least_side)
    return boxes[indices], indices


@cache
def _pipeline(preset: str) -> Any:
    """Return the albumentations pipeline of a preset. The import is slow, so it happens at the first image."""
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # the loader's workers already use all cores
    steps = [A.HorizontalFlip(p=0.5)]
    if preset == "train":
        # As strong as SSD's photometric distortion (Liu et al. 2016), for half of the images.
        steps.append(A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.03, p=0.5))
    return A.Compose(steps, save_applied_params=True)
