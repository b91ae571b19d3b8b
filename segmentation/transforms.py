"""Augments an image together with its label map. The result is a pure function of (seed, epoch, index)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from backbones.common.registry import Registry, unknown_name
from backbones.common.step_lists import is_file, library_transform, read_steps
from segmentation.data.classes import IGNORE

if TYPE_CHECKING:
    from albumentations import Compose

PRESETS = ("light", "train", "lsj", "strong", "eval")
LARGE_SCALES = (0.1, 2.0)  # of large-scale jitter (Ghiasi et al. 2021)


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
        preset: "light" crops and flips; "train" also varies the size and jitters colours; "lsj" varies the size by 0.1
            to 2, crops and flips; "strong" is "train" with SSD's changes of colours and erased parts; "eval" changes
            nothing; or a YAML file with a list of albumentations' transforms; or the name of a registered augmentation.
        crop: side in pixels of the square training crops.
        scales: smallest and largest factor by which "train" resizes before it crops.
        fill: colour (0..255) of a crop's pixels beyond the image; their label is `IGNORE`.
        seed: seed of the run.

    Raises:
        UserError: the preset is unknown, or its file is not a list of transforms.
    """

    preset: str
    crop: int = 0
    scales: tuple[float, float] = (0.5, 2.0)
    fill: tuple[int, ...] = (124, 116, 104)
    seed: int = 0
    listed: str = field(init=False, default="")  # the steps of a file as JSON

    def __post_init__(self) -> None:
        if is_file(self.preset):
            # A frozen dataclass sets its fields in this way.
            object.__setattr__(self, "listed", json.dumps(read_steps(Path(self.preset))))
            _transforms(self.listed)
        elif self.preset not in PRESETS and self.preset not in AUGMENTATIONS:
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
        pipeline = _pipeline(self.listed or self.preset, self.crop, self.scales, self.fill if is_rgb else None)
        pipeline.set_random_seed(int(random.integers(2**32)))
        out = pipeline(image=image, mask=labels)
        return out["image"], out["mask"]


def _transforms(listed: str) -> list[Any]:
    """Return the transforms that a JSON list names. Those with label maps move the label map as well.

    A pixel that a transform takes from beyond the image has the label `IGNORE`. albumentations' own default is 0, which
    is a class.
    """
    make = partial(
        library_transform, where="--augment", usable=lambda *_: True, targets=("image", "mask"), fill_mask=IGNORE
    )
    return [make(*each) for each in json.loads(listed)]


@cache
def _pipeline(preset: str, crop: int, scales: tuple[float, float], fill: tuple[int, ...] | None) -> Compose:
    """Return the albumentations pipeline of a preset or of a JSON list of steps.

    The import is slow, so it happens at the first image.

    Args:
        fill: None for images that are no RGB uint8, whose colours do not change.
    """
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # the loader's workers already use all cores
    pad = A.PadIfNeeded(crop, crop, border_mode=cv2.BORDER_CONSTANT, fill=fill or 0, fill_mask=IGNORE)
    steps = [pad, A.RandomCrop(crop, crop)]
    if preset in PRESETS:
        steps.append(A.HorizontalFlip(p=0.5))
    elif preset not in AUGMENTATIONS:
        return A.Compose([*_transforms(preset), *steps])
    if preset in ("train", "lsj", "strong"):
        low, high = (factor - 1 for factor in (LARGE_SCALES if preset == "lsj" else scales))
        resize = A.RandomScale((low, high), interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST, p=1)
        steps = [resize, *steps]
    if preset == "train" and fill:
        # The strength of SSD's photometric distortion (Liu et al. 2016), applied to half of the images.
        steps.append(A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.03, p=0.5))
    if preset == "strong":
        if fill:
            wide = {"brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": 0.05}
            steps.append(A.ColorJitter(**wide, p=0.8))
        # Erased pixels keep their labels: the model must infer them from what is around.
        steps.append(A.Erasing(scale=(0.02, 0.1), fill=0, p=0.25))
    return A.Compose(steps)
