"""Augmentations that users register: `@detection.register_augmentation("name")` makes a step of that name."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from backbones.common.registry import Registry
from detection.augmentation.sample import Sample, without_emptied
from detection.augmentation.steps import Context, Largest
from detection.runs import bitmaps
from detection.strips import strips_of_bitmaps


class Augmentation(Protocol):
    """Interface of a user's augmentation. Further keyword parameters take their values from the list of steps."""

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


AUGMENTATIONS: Registry[Augmentation | MaskAugmentation] = Registry("augmentation")
register_augmentation = AUGMENTATIONS.register


@dataclass(frozen=True)
class RegisteredStep:
    """Step that calls a registered augmentation.

    Attributes:
        name: of the augmentation.
        parameters: its further keyword arguments, as JSON.
    """

    name: str
    parameters: str = "{}"
    mixes: ClassVar[bool] = False
    pastes: ClassVar[bool] = False

    @property
    def moves_masks(self) -> bool:
        """Return whether the augmentation moves masks."""
        return "masks" in inspect.signature(AUGMENTATIONS[self.name]).parameters

    def __call__(self, sample: Sample, context: Context) -> Sample:
        function: Any = AUGMENTATIONS[self.name]
        given = json.loads(self.parameters)
        if not self.moves_masks:
            image, boxes = function(sample.image, sample.boxes, context.random, **given)
            return replace(sample, image=image, boxes=boxes.astype(np.float32), strips=None)
        strips = np.zeros((0, 5), np.int32) if sample.strips is None else sample.strips
        masks = bitmaps(strips, len(sample.boxes), sample.size)
        image, boxes, masks = function(sample.image, sample.boxes, masks, context.random, **given)
        moved = None if sample.strips is None else strips_of_bitmaps(torch.from_numpy(masks.copy())).numpy()
        after = replace(sample, image=image, boxes=boxes.astype(np.float32), strips=moved)
        return without_emptied(sample.masked, after)

    def largest(self, model: Largest, short_sides: tuple[int, ...]) -> Largest | None:
        return None  # it may crop a small part
