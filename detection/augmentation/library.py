"""Steps of albumentations: all transforms of pixels alone, and flips, whose boxes and masks move as well."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

from backbones.common.files import JsonObject
from backbones.common.registry import unknown_name
from backbones.errors import UserError, first_line
from detection.augmentation.sample import Sample, mirrored, upended
from detection.augmentation.steps import Context, Largest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import looks for a newer version on the network

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
            try:
                _transform(name, parameters)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            except (TypeError, ValueError, UserWarning) as error:
                raise UserError(f"{where}: {name}: {first_line(error)}; correct its parameters") from None


def _transform(name: str, parameters: JsonObject) -> Any:
    """Return a transform of albumentations. The import is slow, so it happens at the first image."""
    import albumentations as A

    known = [
        each
        for each, kind in vars(A).items()
        if isinstance(kind, type) and issubclass(kind, A.ImageOnlyTransform) and kind is not A.ImageOnlyTransform
    ]
    known += [*FLIPS, *ERASING]
    if name not in known:
        raise unknown_name("transform of albumentations", name, known)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # albumentations only warns of unknown parameters
        return getattr(A, name)(**given)


@cache
def _pipeline(listed: str) -> Any:
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # the loader's workers already use all cores
    return A.Compose([_transform(*each) for each in json.loads(listed)], save_applied_params=True)
