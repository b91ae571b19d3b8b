"""Steps that mix several images: copy-paste, mosaic and mixup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from detection.augmentation.sample import Sample, Size, blank, covered, cropped, joined, padded, resized, shifted
from detection.augmentation.steps import Context, Largest, check

MOST_BLEND = 100  # pixels; the time of a Gaussian grows with its std


@dataclass(frozen=True, kw_only=True)
class CopyPaste:
    """Pastes objects of a partner by their masks (Ghiasi et al. 2021, section 3).

    The partner is resized to fit into the image if their sizes differ. What a pasted object covers is removed from the
    masks below. Objects without a mask are not pasted.

    Args:
        p: probability of the step.
        fraction: probability of each object of the partner to be pasted.
        least_visible: an object of the image is dropped if less than this fraction of it stays visible.
        blend: std in pixels of a Gaussian that softens the edges of pasted objects; 0 leaves them sharp.
    """

    p: float = 0.5
    fraction: float = 0.5
    least_visible: float = 0.1
    blend: float = 0.0
    mixes: ClassVar[bool] = True
    pastes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("p", "fraction", "least_visible"):
            check(0 <= getattr(self, name) <= 1, f"{name} must be 0 to 1")
        check(0 <= self.blend <= MOST_BLEND, f"blend must be 0 to {MOST_BLEND} pixels")

    def __call__(self, sample: Sample, context: Context) -> Sample:
        if not context.happens(self.p):
            return sample
        partner = fitted(context.partner(), sample.size)
        chosen = (context.random.random(len(partner.boxes)) < self.fraction) & partner.masked & ~partner.crowd
        pasted = partner.kept(np.flatnonzero(chosen))
        if not len(pasted.boxes):
            return sample
        cover = np.zeros(sample.size, bool)
        for index in range(len(pasted.boxes)):
            left, top, mask = pasted.mask(index)
            cover[top : top + mask.shape[0], left : left + mask.shape[1]] |= mask.astype(bool)
        image = _blended(sample.image, pasted.image, cover, self.blend)
        return joined(image, [covered(sample, cover, self.least_visible), pasted], sample.short_side)

    def largest(self, model: Largest, short_sides: tuple[int, ...]) -> Largest | None:
        return model


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """Joins the image and three partners around a random centre (Bochkovskiy et al. 2020, YOLOv4, section 3.3).

    Args:
        p: probability of the step.
        size: side of the joined image in pixels; 0 for the model's short side.
        scale: smallest and largest long side of an image, relative to `size`.
        centre: range of the centre, relative to `size`.
        least_visible: an object is dropped if less than this fraction of its box is left.
    """

    p: float = 1.0
    size: int = 0
    scale: tuple[float, float] = (0.4, 1.0)
    centre: tuple[float, float] = (0.3, 0.7)
    least_visible: float = 0.1
    mixes: ClassVar[bool] = True
    pastes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(0 <= self.p <= 1, "p must be 0 to 1")
        check(self.size >= 0, "size must be 0 or above")
        check(0 < self.scale[0] <= self.scale[1], "scale must be two rising factors above 0")
        check(0 < self.centre[0] <= self.centre[1] < 1, "centre must be two rising fractions between 0 and 1")
        check(0 <= self.least_visible <= 1, "least_visible must be 0 to 1")

    def __call__(self, sample: Sample, context: Context) -> Sample:
        if not context.happens(self.p):
            return sample
        side = self.size or context.side
        across, down = (round(side * context.random.uniform(*self.centre)) for _ in range(2))
        canvas = blank((side, side))
        parts = []
        for column in (0, 1):
            for row in (0, 1):
                each = context.partner() if column or row else sample
                factor = context.random.uniform(*self.scale) * side / max(each.size)
                room = ((side - down) if row else down, (side - across) if column else across)
                part, left, top = self._part(each, factor, room, bool(column), bool(row))
                left, top = left + across * column, top + down * row
                canvas[top : top + part.size[0], left : left + part.size[1]] = part.image
                parts.append(shifted(part, left, top))
        return joined(canvas, parts, side)

    def _part(self, sample: Sample, factor: float, room: Size, right: bool, below: bool) -> tuple[Sample, int, int]:
        """Resize a sample, keep the corner at the mosaic's centre, and return its position in its quarter."""
        sample = resized(sample, (max(1, round(sample.size[0] * factor)), max(1, round(sample.size[1] * factor))))
        height, width = min(sample.size[0], room[0]), min(sample.size[1], room[1])
        left, top = (0 if right else sample.size[1] - width), (0 if below else sample.size[0] - height)
        part = _visible(sample, left, top, (height, width), self.least_visible)
        return part, 0 if right else room[1] - width, 0 if below else room[0] - height

    def largest(self, model: Largest, short_sides: tuple[int, ...]) -> Largest | None:
        longest = (self.size or model[0]) * self.scale[1]
        return longest, longest


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """Averages the image with a partner and keeps the objects of both (Zhang et al. 2019, Bag of Freebies, 3.1).

    The partner is resized to fit into the image.

    Args:
        p: probability of the step.
        alpha: the weight of the image is drawn from the distribution Beta(alpha, alpha). The default is near one half,
            so that both images can be seen, because the objects of both count in full.
    """

    p: float = 0.5
    alpha: float = 32.0
    mixes: ClassVar[bool] = True
    pastes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(0 <= self.p <= 1, "p must be 0 to 1")
        check(self.alpha > 0, "alpha must be above 0")

    def __call__(self, sample: Sample, context: Context) -> Sample:
        if not context.happens(self.p):
            return sample
        partner = fitted(context.partner(), sample.size)
        weight = float(context.random.beta(self.alpha, self.alpha))
        image = cv2.addWeighted(sample.image, weight, partner.image, 1 - weight, 0)
        return joined(image, [sample, partner], sample.short_side)

    def largest(self, model: Largest, short_sides: tuple[int, ...]) -> Largest | None:
        return model


def fitted(sample: Sample, size: Size) -> Sample:
    """Resize a sample so that it fits into (height, width), and pad it to that size."""
    if sample.size == size:
        return sample
    factor = min(size[0] / sample.size[0], size[1] / sample.size[1])
    height, width = (min(limit, max(1, round(each * factor))) for each, limit in zip(sample.size, size, strict=True))
    return padded(resized(sample, (height, width)), size)


def _visible(sample: Sample, left: int, top: int, size: Size, least_visible: float) -> Sample:
    """Crop a sample; objects of whose box less than `least_visible` lies in the part are dropped."""
    corner = np.array([left, top], np.float32)
    low = sample.boxes[:, :2].clip(corner)
    high = sample.boxes[:, 2:].clip(max=corner + np.array(size[::-1], np.float32))
    inside = (high - low).clip(0).prod(axis=1)
    whole = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(axis=1)
    seen = sample.crowd | (inside >= least_visible * whole)
    return cropped(sample.kept(np.flatnonzero(seen)), left, top, size)


def _blended(image: np.ndarray, other: np.ndarray, cover: np.ndarray, blend: float) -> np.ndarray:
    """Return `image` with the covered pixels of `other`. `blend` softens the edge of the cover."""
    if not blend:
        return np.where(cover[..., None], other, image)
    weight = cv2.GaussianBlur(cover.astype(np.float32), (0, 0), blend)[..., None]
    return (image * (1 - weight) + other * weight).round().astype(np.uint8)
