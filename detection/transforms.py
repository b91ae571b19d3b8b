"""Augments an image together with its boxes and masks. The result is a pure function of (seed, epoch, index).

A preset only chooses the short side that the model resizes to (`detection.preprocess`). Images that are more than twice
as large as that are divided by a power of two before, because all later steps would process needless pixels.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch

from backbones.common.registry import Registry, unknown_name
from backbones.common.shrinking import resize_ratio, shrink_factor
from backbones.errors import UserError
from detection.data.annotations import SMALLEST_SIDE
from detection.runs import bitmaps, selected
from detection.runs import mirrored as mirrored_strips
from detection.strips import strips_of_bitmaps

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


class MaskAugmentation(Protocol):
    """Interface of a user's augmentation that moves masks as well. Its third parameter has the name `masks`."""

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, masks: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Augment an image, its boxes and their masks `[N, H, W]` uint8, 0 or 1.

        In addition to what `Augmentation` says, masks keep their number and order. An object of whose mask nothing is
        left is dropped.
        """


@dataclass(frozen=True)
class Augmented:
    """An augmented image with its boxes.

    Attributes:
        image: `[H, W, C]` uint8.
        boxes: the remaining boxes `[M, 4]`.
        kept: indices of the remaining boxes among the given ones `[M]`, ascending.
        short_side: pixels to resize to; None for the model's own size.
        strips: masks of the remaining boxes `[S, 5]`; None if there are no masks.
    """

    image: np.ndarray
    boxes: np.ndarray
    kept: np.ndarray
    short_side: int | None
    strips: np.ndarray | None


AUGMENTATIONS: Registry[Augmentation | MaskAugmentation] = Registry("augmentation")
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
        masks: whether the images have masks.

    Raises:
        UserError: the preset is unknown, or moves no masks though the images have masks.
    """

    preset: str
    short_sides: tuple[int, ...] = ()
    seed: int = 0
    model_sizes: tuple[int, int] | None = None
    masks: bool = False

    def __post_init__(self) -> None:
        if self.preset not in PRESETS and self.preset not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.preset, [*PRESETS, *AUGMENTATIONS.names()])
        if self.masks and self.preset not in PRESETS and not _moves_masks(self.preset):
            raise UserError(
                f"augment {self.preset}: moves no masks; write it as a function of (image, boxes, masks, random) that "
                "returns image, boxes and masks, or choose another one"
            )

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
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        *,
        epoch: int,
        index: int,
        least_side: float = SMALLEST_SIDE,
        strips: np.ndarray | None = None,
    ) -> Augmented:
        """Augment an image `[H, W, C]` uint8, its boxes `[N, 4]` xyxy in pixels, and their masks as strips `[S, 5]`.

        Args:
            least_side: see `sanitise`.
        """
        if self.preset == "eval":
            return Augmented(image, boxes, np.arange(len(boxes)), None, strips)
        random = np.random.default_rng((self.seed, epoch, index))
        if self.preset in AUGMENTATIONS:
            image, boxes, strips = _registered(self.preset, image, boxes, strips, random)
        else:
            image, boxes, strips = _built_in(self.preset, image, boxes, strips, random)
        boxes, kept = sanitise(boxes.astype(np.float32), image.shape[:2], least_side)
        strips = None if strips is None else selected(strips, kept)
        short_side = int(random.choice(self.short_sides)) if self.preset == "train" and self.short_sides else None
        return Augmented(image, boxes, kept, short_side, strips)


Moved = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # image, boxes and strips


def _moves_masks(name: str) -> bool:
    """Return whether a registered augmentation moves masks."""
    return "masks" in inspect.signature(AUGMENTATIONS[name]).parameters


def _registered(
    name: str, image: np.ndarray, boxes: np.ndarray, strips: np.ndarray | None, random: np.random.Generator
) -> Moved:
    augmentation: Any = AUGMENTATIONS[name]
    if not _moves_masks(name):
        image, boxes = augmentation(image, boxes, random)
        return image, boxes, None
    masks = bitmaps(np.zeros((0, 5), np.int32) if strips is None else strips, len(boxes), image.shape[:2])
    image, boxes, masks = augmentation(image, boxes, masks, random)
    return image, boxes, None if strips is None else strips_of_bitmaps(torch.from_numpy(masks.copy())).numpy()


def _built_in(
    preset: str, image: np.ndarray, boxes: np.ndarray, strips: np.ndarray | None, random: np.random.Generator
) -> Moved:
    pipeline = _pipeline(preset)
    pipeline.set_random_seed(int(random.integers(2**32)))
    out = pipeline(image=image)
    # The flip is the only step that moves boxes. albumentations' own boxes are slower, and it rounds them.
    if any(name == "HorizontalFlip" for name, _ in out["applied_transforms"]):
        boxes = mirrored(boxes, image.shape[1])
        strips = None if strips is None else mirrored_strips(strips, image.shape[1])
    return out["image"], boxes, strips


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
