"""Augments an image together with its boxes and masks. The result is a pure function of (seed, epoch, index).

An augmentation is a list of steps (`detection.augmentation.presets`). Images that are more than twice as large as the
model sees them are divided by a power of two before, because all later steps would process needless pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from backbones.common.shrinking import resize_ratio, shrink_factor
from backbones.common.step_lists import is_file
from backbones.errors import UserError
from detection.augmentation import presets
from detection.augmentation.registered import AUGMENTATIONS, RegisteredStep, register_augmentation
from detection.augmentation.sample import Sample
from detection.augmentation.steps import AugmentationStep, Context
from detection.data.annotations import SMALLEST_SIDE
from detection.settings import DetectorSettings

__all__ = ["AUGMENTATIONS", "Augment", "register_augmentation", "sanitise"]

ReadPartner = Callable[[np.random.Generator], Sample]  # reads an image of the training split that the generator draws


@dataclass(frozen=True)
class Augment:
    """Augments images and boxes by a preset; all randomness is a function of seed, epoch and index.

    Args:
        preset: "light", "train", "lsj", "strong", "eval" (changes nothing), a YAML file with a list of steps, or the
            name of a registered augmentation.
        short_sides: short sides in pixels that the step `short_side` chooses from; empty for the model's own size.
        seed: seed of the run.
        model_sizes: short side in pixels that the model resizes to by itself, and its largest long side. With both,
            large images are shrunk, unless a step may crop a small part.
        masks: whether the images have masks that the model learns.

    Raises:
        UserError: the preset is unknown, or has a step that moves no masks though the model or a later step reads them.
    """

    preset: str
    short_sides: tuple[int, ...] = ()
    seed: int = 0
    model_sizes: tuple[int, int] | None = None
    masks: bool = False
    steps: tuple[AugmentationStep, ...] = field(init=False)

    def __post_init__(self) -> None:
        if is_file(self.preset):
            steps = presets.make_steps(presets.listed_steps(self.preset), where=self.preset, check=True)
        elif self.preset in presets.PRESETS:
            steps = presets.preset_steps(self.preset)
        else:
            steps = presets.make_steps(presets.listed_steps(self.preset), where=self.preset, check=False)
        # A frozen dataclass sets its fields in this way.
        object.__setattr__(self, "steps", steps)
        for number, step in enumerate(steps):
            reads_masks = self.masks or any(later.pastes for later in steps[number:])
            if reads_masks and isinstance(step, RegisteredStep) and not step.moves_masks:
                raise UserError(
                    f"augment {step.name}: moves no masks; write it as a function of (image, boxes, masks, random) "
                    "that returns image, boxes and masks, or choose another one"
                )

    @property
    def pastes(self) -> bool:
        """Return whether a step needs the masks of the data, even if the model predicts boxes only."""
        return any(step.pastes for step in self.steps)

    @property
    def side(self) -> int:
        """Return the side in pixels of the squares that steps make by default."""
        return self.model_sizes[0] if self.model_sizes else DetectorSettings.min_size

    def shrink_factor(self, size: tuple[int, int]) -> int:
        """Return by what an image of size (height, width) is divided first: a power of two, 1 for most images.

        The divided image is at least as large as the largest that a step or the model resizes it to.
        """
        if self.model_sizes is None or not self.steps:
            return 1
        largest: tuple[float, float] = self.model_sizes
        for step in reversed(self.steps):
            found = step.largest(largest, self.short_sides)
            if found is None:
                return 1
            largest = found
        short, long = largest
        return shrink_factor(resize_ratio(size, short_side=round(short), long_side=round(long)))

    def __call__(
        self, sample: Sample, *, epoch: int, index: int, partner: ReadPartner, least_side: float = SMALLEST_SIDE
    ) -> Sample:
        """Return an augmented sample.

        Args:
            index: of the image in the data set.
            partner: reads another image, for steps that mix several.
            least_side: see `sanitise`.
        """
        if not self.steps:
            return sample
        random = np.random.default_rng((self.seed, epoch, index))
        augmented = self._apply(self.steps, sample, random, partner)
        boxes, kept = sanitise(augmented.boxes, augmented.size, least_side)
        return replace(augmented.kept(kept), boxes=boxes)

    def _apply(
        self,
        steps: Sequence[AugmentationStep],
        sample: Sample,
        random: np.random.Generator,
        partner: ReadPartner,
    ) -> Sample:
        for position, step in enumerate(steps):
            # A partner passes the earlier steps too, but does not get partners of its own.
            before = [each for each in steps[:position] if not each.mixes]
            read = partial(self._partner, before, random, partner)
            sample = step(sample, Context(random, self.side, self.short_sides, read))
        return sample

    def _partner(self, steps: Sequence[AugmentationStep], random: np.random.Generator, partner: ReadPartner) -> Sample:
        return self._apply(steps, partner(random), random, partner)


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
