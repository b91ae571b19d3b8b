"""What happens to a picture before the net: augmentation in training, views of it in evaluation.

Augmentation is a pure function of (seed, epoch, index). Evaluation resizes as torchvision does (bilinear, antialiased),
so that published weights give their published predictions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, get_args

import numpy as np

from backbones.common.registry import Registry, unknown_name

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version otherwise

PRESETS = ("standard", "paper", "modern", "cifar", "light", "none")
Crops = Literal["center", "ten", "multiscale"]
Interpolation = Literal["bilinear", "bicubic"]
CROPS = get_args(Crops)
SCALES = (224, 256, 384, 480, 640)  # shorter sides of table 4's test, for nets trained at 224
# Deviations along and directions of the principal components of ImageNet's pixels, as RGB in 0..1.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
JITTER = (256 / 224, 480 / 224)  # section 3.4: shorter side between 256 and 480 for crops of 224


class Augmentation(Protocol):
    """A user's augmentation."""

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Augment an image `[H, W, C]`, uint8 or float32, to an image of any size and the same type.

        All randomness must come from `random`, so that a run can be resumed and repeated. The image is then resized
        and cropped at the centre to the size of training.
        """


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")
register_augmentation = AUGMENTATIONS.register  # @classification.register_augmentation("name"), for --augment name


@dataclass(frozen=True)
class Normalise:
    """Brings float arrays to zero mean and unit deviation by channel; bytes stay bytes: the net normalises those."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if image.dtype == np.uint8:
            return image
        return ((image - np.array(self.mean)) / np.array(self.std)).astype(np.float32)


@dataclass(frozen=True)
class Augment:
    """A training preset with its seed.

    Args:
        preset: "standard" is the random resized crop of Szegedy et al. 2015 with flips; "paper" jitters the scale,
            crops, flips and shifts colours (section 3.4); "modern" adds RandAugment and random erasing to "standard";
            "cifar" pads by an eighth, crops and flips (section 4.2); "light" crops gently and flips; "none" prepares
            images as evaluation does; or the name of a registered augmentation.
        size: side of the crop in pixels.
        normalise: applied to float arrays; its mean is what "cifar" pads with.
        seed: of the run.
    """

    preset: str
    size: int
    normalise: Normalise
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS and self.preset not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.preset, [*PRESETS, *AUGMENTATIONS.names()])

    def __call__(self, image: np.ndarray, *, epoch: int, index: int) -> np.ndarray:
        """Augment an image `[H, W, C]` uint8 or float32 to `[size, size, C]`."""
        random = np.random.default_rng((self.seed, epoch, index))
        if self.preset in AUGMENTATIONS:
            image = AUGMENTATIONS[self.preset](image, random)
        if self.preset == "none" or self.preset in AUGMENTATIONS:
            return self.normalise(center(resized(image, self.size), self.size))
        if self.preset == "paper":
            low, high = (round(self.size * factor) for factor in JITTER)
            image = _pca_shifted(resized(image, int(random.integers(low, high + 1))), random)
        if self.preset == "cifar":
            image = resized(image, self.size)  # for pictures of other sizes than CIFAR's: as evaluation shows them
            image = _padded(image, self.size // 8, self.normalise.mean)
        pipeline = _pipeline(self.preset, self.size)
        pipeline.set_random_seed(int(random.integers(2**32)))
        image = pipeline(image=image)["image"]
        if self.preset == "modern" and image.dtype == np.uint8 and image.shape[2] in (1, 3):
            image = _rand_augment(image, int(random.integers(2**32)))
        return self.normalise(image)


@dataclass(frozen=True)
class Views:
    """What evaluation shows the net of a picture; its probabilities are averaged over the views.

    Args:
        crops: "center"; "ten" are the corners and the centre, and their mirror images (Krizhevsky et al. 2012);
            "multiscale" is the whole picture and its mirror image at five sizes (table 4, fully convolutional).
        resize: shorter side before the crop, in pixels.
        size: side of the crop.
        normalise: applied to float arrays.
        interpolation: how pictures are resized.
    """

    crops: Crops
    resize: int
    size: int
    normalise: Normalise
    interpolation: Interpolation = "bilinear"

    @property
    def largest(self) -> int:
        """The longest that the shorter side becomes, in pixels."""
        return round(SCALES[-1] * self.size / SCALES[0]) if self.crops == "multiscale" else self.resize

    def __call__(self, image: np.ndarray, *, epoch: int = 0, index: int = 0) -> list[np.ndarray]:
        """The views `[h, w, C]` of an image `[H, W, C]`."""
        if self.crops == "multiscale":
            sides = [round(scale * self.size / SCALES[0]) for scale in SCALES]
            views = mirrored([resized(image, side, self.interpolation) for side in sides])
        elif self.crops == "ten":
            image = resized(image, self.resize, self.interpolation)
            both = mirrored(
                [image]
            )  # mirrored first, as torchvision does: the centre of an odd margin is no mirror image
            views = [crop for side in both for crop in (*corners(side, self.size), center(side, self.size))]
        else:
            views = [center(resized(image, self.resize, self.interpolation), self.size)]
        return [self.normalise(view) for view in views]


def describe_views(crops: Crops, size: int, resize: int) -> str:
    """What evaluation looks at, in words."""
    if crops == "multiscale":
        sides = ", ".join(str(round(scale * size / SCALES[0])) for scale in SCALES)
        return f"whole images with shorter sides of {sides}, and mirrored"
    return f"{crops} crop{'s' if crops == 'ten' else ''} of {size} after resizing to {resize}"


def resized(image: np.ndarray, side: int, interpolation: Interpolation = "bilinear") -> np.ndarray:
    """The image `[H, W, C]` with its shorter side `side` pixels long, as torchvision resizes."""
    if min(image.shape[:2]) == side:
        return image
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    mode = InterpolationMode(interpolation)
    out = F.resize(torch.from_numpy(image.transpose(2, 0, 1)), [side], mode, antialias=True)
    return out.numpy().transpose(1, 2, 0)


def center(image: np.ndarray, size: int) -> np.ndarray:
    """The crop in the middle, `[size, size, C]`."""
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def corners(image: np.ndarray, size: int) -> list[np.ndarray]:
    """The four crops in the corners."""
    return [image[:size, :size], image[:size, -size:], image[-size:, :size], image[-size:, -size:]]


def mirrored(views: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The views, then their mirror images."""
    return [*views, *(view[:, ::-1] for view in views)]


@cache
def _pipeline(preset: str, size: int) -> Any:
    """albumentations' pipeline of a preset; its import takes seconds, so it waits for the first image."""
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # the loader's workers are the parallelism
    flip = A.HorizontalFlip(p=0.5)
    steps: dict[str, list[Any]] = {
        "standard": [A.RandomResizedCrop((size, size), scale=(0.08, 1.0)), flip],
        "modern": [A.RandomResizedCrop((size, size), scale=(0.08, 1.0)), flip],
        "light": [A.RandomResizedCrop((size, size), scale=(0.5, 1.0)), flip],
        "cifar": [A.RandomCrop(size, size), flip],
        "paper": [A.RandomCrop(size, size), flip],
    }
    erase = [A.Erasing(p=0.1)] if preset == "modern" else []
    return A.Compose(steps[preset] + erase)


def _padded(image: np.ndarray, by: int, mean: Sequence[float]) -> np.ndarray:
    """The image with a border of the mean colour, which normalisation makes the paper's zeros."""
    height, width, channels = image.shape
    scale = 255 if image.dtype == np.uint8 else 1
    out = np.empty((height + 2 * by, width + 2 * by, channels), image.dtype)
    out[:] = np.round(np.multiply(mean, scale)) if scale == 255 else mean
    out[by : by + height, by : by + width] = image
    return out


def _pca_shifted(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A colour picture shifted along the principal components of ImageNet's colours (Krizhevsky et al. 2012)."""
    if image.dtype != np.uint8 or image.shape[2] != 3:
        return image
    shift = PCA_VECTORS @ (random.normal(0, 0.1, 3) * PCA_VALUES) * 255
    return (image + shift).round().clip(0, 255).astype(np.uint8)


def _rand_augment(image: np.ndarray, seed: int) -> np.ndarray:
    """torchvision's RandAugment (Cubuk et al. 2020): two operations of strength 9."""
    import torch
    from torchvision.transforms import v2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = v2.RandAugment()(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
    return out.numpy().transpose(1, 2, 0)
