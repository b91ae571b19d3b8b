"""The steps of an augmentation. A step maps a sample to a sample; all its randomness comes from its `Context`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from detection.augmentation.sample import Sample, cropped, padded, resized

Largest = tuple[float, float]  # short and long side in pixels


@dataclass(frozen=True)
class Context:
    """Random numbers, sizes and partner images that a step may use besides its sample.

    Attributes:
        random: generator of this image, seeded by (seed, epoch, index).
        side: side in pixels of the squares that steps make if they have no `size` of their own.
        short_sides: short sides in pixels that the step `short_side` chooses from by default.
        partner: reads another random image of the training split, after the steps that come before the present one.
    """

    random: np.random.Generator
    side: int
    short_sides: tuple[int, ...]
    partner: Callable[[], Sample]

    def happens(self, probability: float) -> bool:
        """Draw whether a step with this probability happens."""
        return probability >= 1 or bool(self.random.random() < probability)


class AugmentationStep(Protocol):
    """Interface of a step.

    Attributes:
        mixes: whether the step reads partners.
        pastes: whether the step needs masks of the data set, even if the model predicts boxes only.
    """

    mixes: ClassVar[bool]
    pastes: ClassVar[bool]

    def __call__(self, sample: Sample, context: Context) -> Sample:
        """Return the augmented sample."""

    def largest(self, model: Largest, short_sides: tuple[int, ...]) -> Largest | None:
        """Return the largest size to which the image is resized from this step on; None if the step may crop it.

        Args:
            model: the largest size of the model or of later steps.
        """


@dataclass(frozen=True, kw_only=True)
class ShortSide:
    """Chooses the short side that the model resizes the image to.

    Args:
        sides: short sides in pixels to choose from; empty for those of `--short-sides`.
    """

    sides: tuple[int, ...] = ()
    mixes: ClassVar[bool] = False
    pastes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(all(side > 0 and side == int(side) for side in self.sides), "sides must be whole numbers above 0")

    def __call__(self, sample: Sample, context: Context) -> Sample:
        """Choose a side; without any to choose from, the model's own size stays."""
        sides = self.sides or context.short_sides
        return replace(sample, short_side=int(context.random.choice(sides))) if sides else sample

    def largest(self, model: Largest, short_sides: tuple[int, ...]) -> Largest | None:
        sides = self.sides or short_sides
        return (max(sides), model[1]) if sides else model


@dataclass(frozen=True, kw_only=True)
class LargeScaleJitter:
    """Resizes by a random factor, and crops or pads to a square (Ghiasi et al. 2021, section 3).

    With factor 1 the image fits into the square.

    Args:
        size: side of the square in pixels; 0 for the model's short side.
        scale: smallest and largest factor.
    """

    size: int = 0
    scale: tuple[float, float] = (0.1, 2.0)
    mixes: ClassVar[bool] = False
    pastes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.size >= 0, "size must be 0 or above")
        check(0 < self.scale[0] <= self.scale[1], "scale must be two rising factors above 0")

    def __call__(self, sample: Sample, context: Context) -> Sample:
        side = self.size or context.side
        factor = context.random.uniform(*self.scale) * side / max(sample.size)
        height, width = (max(1, round(each * factor)) for each in sample.size)
        sample = resized(sample, (height, width))
        # Crop where the image is larger than the square, at a random position; pad at the right and at the bottom.
        inside = (min(height, side), min(width, side))
        top, left = (int(context.random.integers(a - b + 1)) for a, b in zip((height, width), inside, strict=True))
        sample = padded(cropped(sample, left, top, inside), (side, side))
        return replace(sample, short_side=side)

    def largest(self, model: Largest, short_sides: tuple[int, ...]) -> Largest | None:
        longest = (self.size or model[0]) * self.scale[1]
        return longest, longest


@dataclass(frozen=True, kw_only=True)
class IouCrop:
    """Crops a random part that keeps objects (Liu et al. 2016, SSD, section 2.2).

    A part is chosen that overlaps an object by a random minimum of IoU. Objects whose centre lies outside the part are
    dropped. An image without objects stays whole.

    Args:
        p: probability of the step.
        overlaps: minima to choose from; 1 leaves the image whole.
        scale: smallest and largest side of a part, relative to the image's side.
        aspect: smallest and largest ratio of width to height.
        trials: number of parts that are tried for one minimum.
    """

    p: float = 1.0
    overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    trials: int = 40
    mixes: ClassVar[bool] = False
    pastes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(0 <= self.p <= 1, "p must be 0 to 1")
        check(len(self.overlaps) > 0, "overlaps must not be empty")
        check(0 < self.scale[0] <= self.scale[1] <= 1, "scale must be two rising fractions")
        check(0 < self.aspect[0] <= self.aspect[1], "aspect must be two rising ratios")
        check(self.trials > 0, "trials must be above 0")

    def __call__(self, sample: Sample, context: Context) -> Sample:
        objects = sample.boxes[~sample.crowd]
        if not len(objects) or not context.happens(self.p):
            return sample
        # Draw the minimum once more if no part reaches it, as SSD's code does; a small number bounds the time.
        for _ in range(len(self.overlaps)):
            least = float(context.random.choice(self.overlaps))
            if least >= 1:
                return sample
            for _ in range(self.trials):
                part = self._part(sample, context.random)
                if part is not None and _overlap(objects, part) >= least and _centred(objects, part).any():
                    return _cut(sample, part)
        return sample

    def _part(self, sample: Sample, random: np.random.Generator) -> np.ndarray | None:
        """Draw a part `[4]` xyxy; None if its aspect is out of range."""
        height, width = (max(1, int(side * random.uniform(*self.scale))) for side in sample.size)
        if not self.aspect[0] <= width / height <= self.aspect[1]:
            return None
        top, left = (int(random.integers(a - b + 1)) for a, b in zip(sample.size, (height, width), strict=True))
        return np.array([left, top, left + width, top + height])

    def largest(self, model: Largest, short_sides: tuple[int, ...]) -> Largest | None:
        return None  # the part is resized to the size of a whole image


def _overlap(boxes: np.ndarray, part: np.ndarray) -> float:
    """Return the largest IoU of boxes `[N, 4]` and a part `[4]`."""
    shared = (np.minimum(boxes[:, 2:], part[2:]) - np.maximum(boxes[:, :2], part[:2])).clip(0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (part[2:] - part[:2]).prod()
    return float((shared / (areas - shared)).max())


def _centred(boxes: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return which boxes `[N, 4]` have their centre in a part `[4]`."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centre > part[:2]) & (centre < part[2:])).all(axis=1)


def _cut(sample: Sample, part: np.ndarray) -> Sample:
    """Crop a sample to a part; objects whose centre lies outside are dropped, and ignore regions are cut."""
    left, top, right, bottom = part.tolist()
    sample = sample.kept(np.flatnonzero(sample.crowd | _centred(sample.boxes, part)))
    return cropped(sample, left, top, (bottom - top, right - left))


def check(holds: bool, rule: str) -> None:
    """Raise a ValueError with the rule unless it holds. The reader of the list adds the name of the step."""
    if not holds:
        raise ValueError(rule)
