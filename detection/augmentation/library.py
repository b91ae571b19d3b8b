"""Steps of albumentations: all transforms of pixels alone, and flips, whose boxes and masks move as well."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

from backbones.common.step_lists import library_transform
from detection.augmentation.sample import Sample, mirrored, upended
from detection.augmentation.steps import Context, Largest

FLIPS = {"HorizontalFlip": mirrored, "VerticalFlip": upended}
# Transforms that albumentations can also apply to boxes. Here they only erase pixels, as torchvision's RandomErasing.
ERASING = ("Erasing", "CoarseDropout", "GridDropout")
# Probability 1/2 for each change of colours, as SSD's code has it (Liu et al. 2016, section 2.2).
PHOTOMETRIC = (
    {"ColorJitter": {"brightness": [0.875, 1.125], "contrast": [1, 1], "saturation": [1, 1], "hue": [0, 0], "p": 0.5}},
    {"ColorJitter": {"brightness": [1, 1], "contrast": [0.5, 1.5], "saturation": [1, 1], "hue": [0, 0], "p": 0.5}},
    {"ColorJitter": {"brightness": [1, 1], "contrast": [1, 1], "saturation": [0.5, 1.5], "hue": [0, 0], "p": 0.5}},
    {"ColorJitter": {"brightness": [1, 1], "contrast": [1, 1], "saturation": [1, 1], "hue": [-0.05, 0.05], "p": 0.5}},
    {"ChannelShuffle": {"p": 0.1}},
)


@dataclass(frozen=True)
class LibrarySteps:
    """Consecutive transforms of albumentations, which share one random stream.

    Attributes:
        listed: names and parameters of the transforms, as JSON.
    """

    listed: str
    mixes: ClassVar[bool] = False
    pastes: ClassVar[bool] = False

    def __call__(self, sample: Sample, context: Context) -> Sample:
        pipeline = _pipeline(self.listed)
        pipeline.set_random_seed(int(context.random.integers(2**32)))
        out = pipeline(image=sample.image)
        # albumentations' own boxes are slower, and it rounds them.
        for name, _ in out["applied_transforms"]:
            if name in FLIPS:
                sample = FLIPS[name](sample, out["image"])
        return replace(sample, image=out["image"])

    def largest(self, model: Largest, short_sides: tuple[int, ...]) -> Largest | None:
        return model

    def require_known(self, where: str) -> None:
        """Raise a UserError if a transform is unknown or does not take its parameters. This imports albumentations."""
        for name, parameters in json.loads(self.listed):
            library_transform(name, parameters, where=where, usable=_usable)


def _usable(library: Any, name: str) -> bool:
    """Return whether a transform changes pixels alone, or is a flip."""
    return name in (*FLIPS, *ERASING) or issubclass(getattr(library, name), library.ImageOnlyTransform)


@cache
def _pipeline(listed: str) -> Any:
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # the loader's workers already use all cores
    transforms = [library_transform(*each, where="steps", usable=_usable) for each in json.loads(listed)]
    return A.Compose(transforms, save_applied_params=True)
