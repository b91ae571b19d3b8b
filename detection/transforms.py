"""Augmentation of image and boxes together: a pure function of (seed, epoch, index).

No resizing here: a preset only says to which short side the model shall resize (see `detection.resize`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version otherwise

Preset = Literal["train", "light", "eval"]
SMALLEST_SIDE = 1.0  # pixels; an augmented box must show more than that


@dataclass(frozen=True)
class Augment:
    """A preset with its seed.

    Args:
        preset: "train" flips, jitters colours and picks a short side; "light" only flips; "eval" does nothing.
        short_sides: pixels that "train" picks from; empty for the model's own size.
        seed: of the run.
    """

    preset: Preset
    short_sides: tuple[int, ...] = ()
    seed: int = 0

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, *, epoch: int, index: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int | None]:
        """Augment an image `[H, W, C]` uint8 and its boxes `[N, 4]` xyxy in pixels.

        Returns:
            The image, the boxes that are left, their places `[M]` among those given, and the short side to resize to
            (None: the model's own).
        """
        if self.preset == "eval":
            return image, boxes, np.arange(len(boxes)), None
        random = np.random.default_rng((self.seed, epoch, index))
        pipeline = _pipeline(self.preset)
        pipeline.set_random_seed(int(random.integers(2**32)))
        out = pipeline(image=image)
        # The one step that moves boxes. albumentations' own boxes cost a fifth of an item, and round.
        if any(name == "HorizontalFlip" for name, _ in out["applied_transforms"]):
            boxes = mirrored(boxes, image.shape[1])
        kept, places = sanitise(boxes.astype(np.float32), image.shape[:2])
        short_side = int(random.choice(self.short_sides)) if self.preset == "train" and self.short_sides else None
        return out["image"], kept, places, short_side


def mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes `[N, 4]` xyxy in an image of that width, turned left to right."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def sanitise(boxes: np.ndarray, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes `[N, 4]` xyxy to an image of (height, width); the ones with some area left, and their places."""
    height, width = size
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    places = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > SMALLEST_SIDE)
    return boxes[places], places


@cache
def _pipeline(preset: str) -> Any:
    """albumentations' pipeline of a preset; its import takes seconds, so it waits for the first image."""
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # the loader's workers are the parallelism
    steps = [A.HorizontalFlip(p=0.5)]
    if preset == "train":
        # The strength of SSD's photometric distortion (Liu et al. 2016), in each half of the images.
        steps.append(A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.03, p=0.5))
    return A.Compose(steps, save_applied_params=True)
