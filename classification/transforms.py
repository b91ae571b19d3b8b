"""Prepares images for a classifier: augmentation in training, crops and flips (views) in evaluation.

Augmentation is a pure function of (seed, epoch, index). Evaluation resizes as torchvision does (bilinear, antialiased),
so that published weights give their published predictions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

import numpy as np

from backbones.common.registry import Registry, unknown_name
from backbones.common.shrinking import shrink_factor

if TYPE_CHECKING:
    from albumentations import BasicTransform, Compose

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # without it, the import asks the network for a newer version

Crops: TypeAlias = Literal["center", "ten", "multiscale"]
Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
PRESETS = ("standard", "paper", "modern", "cifar", "light", "none")
CROPS = get_args(Crops)
SCALES = (224, 256, 384, 480, 640)  # shorter sides in the test of table 4, for models trained at 224
# Standard deviations and directions of the principal components of ImageNet's pixels, as RGB in 0..1.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
AREA = {"standard": 0.08, "modern": 0.08, "light": 0.5}  # smallest fraction of an image that a random crop keeps
NARROWEST = 3 / 4  # shorter side of a random crop divided by its longer one, albumentations' default
JITTER = (256 / 224, 480 / 224)  # shorter side over crop: 256 to 480 for crops of 224 (section 3.4)


class Augmentation(Protocol):
    """Interface of a user's augmentation."""

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Augment an image `[H, W, C]`, uint8 or float32, to an image of any size and the same type.

        All randomness must come from `random`, so that a run can be resumed and repeated. The image is then resized
        and cropped at the centre to the size of training.
        """


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")
register_augmentation = AUGMENTATIONS.register  # @classification.register_augmentation("name"), for --augment name


@dataclass(frozen=True)
class Normalise:
    """Subtracts the mean from float images and divides by the std, per channel.

    Images of bytes stay as they are: the model normalises them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Normalise an image `[H, W, C]`: float32 in, normalised float32 out; uint8 is returned unchanged."""
        if image.dtype == np.uint8:
            return image
        return ((image - np.array(self.mean)) / np.array(self.std)).astype(np.float32)


@dataclass(frozen=True)
class Augment:
    """Augments images by a preset; all randomness is a function of seed, epoch and index.

    Args:
        preset: "standard" is the random resized crop of Szegedy et al. 2015 with flips; "paper" varies the scale,
            crops, flips and shifts colours (section 3.4); "modern" adds RandAugment and random erasing to "standard";
            "cifar" pads by an eighth, crops and flips (section 4.2); "light" crops a large part and flips; "none"
            prepares images as evaluation does; or the name of a registered augmentation.
        size: side of the square crop in pixels.
        normalise: applied to float images; "cifar" pads with its mean.
        seed: seed of the run.

    Raises:
        UserError: the preset is unknown.
    """

    preset: str
    size: int
    normalise: Normalise
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS and self.preset not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.preset, [*PRESETS, *AUGMENTATIONS.names()])

    def __call__(self, image: np.ndarray, *, epoch: int, index: int) -> np.ndarray:
        """Augment an image `[H, W, C]`, uint8 or float32 (not normalised), to `[size, size, C]`."""
        random = np.random.default_rng((self.seed, epoch, index))
        if self.preset in AUGMENTATIONS:
            image = AUGMENTATIONS[self.preset](image, random)
        if self.preset == "none" or self.preset in AUGMENTATIONS:
            return self.normalise(center(resized(image, self.size), self.size))
        return self.normalise(self._augmented(image, random))

    def shrink_factor(self, size: tuple[int, int]) -> int:
        """Return by what an image of size (height, width) may be divided in decoding: a power of two, mostly 1.

        What is cropped from the divided image is still at least as large as the crop of training. An augmentation of
        the user gets whole images, because it may crop a small part.
        """
        if self.preset in AUGMENTATIONS:
            return 1
        if self.preset in AREA:
            return shrink_factor((AREA[self.preset] * NARROWEST * size[0] * size[1]) ** 0.5 / self.size)
        return shrink_factor(min(size) / (round(self.size * JITTER[1]) if self.preset == "paper" else self.size))

    def _augmented(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if self.preset == "paper":
            # Resize the shorter side to a random length, then shift the colours.
            low, high = (round(self.size * factor) for factor in JITTER)
            image = _pca_shifted(resized(image, int(random.integers(low, high + 1))), random)
        if self.preset == "cifar":
            # Images of another size than CIFAR's are resized as in evaluation.
            image = _padded(resized(image, self.size), self.size // 8, self.normalise.mean)
        # Crop and flip.
        pipeline = _pipeline(self.preset, self.size)
        pipeline.set_random_seed(int(random.integers(2**32)))
        image = pipeline(image=image)["image"]
        if self.preset == "modern" and image.dtype == np.uint8 and image.shape[2] in (1, 3):
            image = _rand_augment(image, int(random.integers(2**32)))
        return image


@dataclass(frozen=True)
class Views:
    """Makes the views of an image for evaluation. The model's probabilities are averaged over the views.

    Args:
        crops: "center"; "ten" are the corners and the centre, and their mirror images (Krizhevsky et al. 2012);
            "multiscale" is the whole image and its mirror image at five sizes (table 4, fully convolutional).
        resize: length of the shorter side before the crop in pixels.
        size: side of the square crop in pixels.
        normalise: applied to float images.
        interpolation: how images are resized.
    """

    crops: Crops
    resize: int
    size: int
    normalise: Normalise
    interpolation: Interpolation = "bilinear"

    @property
    def largest(self) -> int:
        """Return the length of the shorter side in pixels, the largest if views have several sizes."""
        return round(SCALES[-1] * self.size / SCALES[0]) if self.crops == "multiscale" else self.resize

    def shrink_factor(self, size: tuple[int, int]) -> int:
        """Return 1: evaluation reads whole images, so that published weights give their published predictions."""
        return 1

    def __call__(self, image: np.ndarray, *, epoch: int = 0, index: int = 0) -> list[np.ndarray]:
        """Return the views `[h, w, C]` of an image `[H, W, C]`, uint8 or float32 (not normalised)."""
        if self.crops == "multiscale":
            # Resize the whole image to each scale. Scales are relative to the crop of training.
            sides = [round(scale * self.size / SCALES[0]) for scale in SCALES]
            views = mirrored([resized(image, side, self.interpolation) for side in sides])
        elif self.crops == "ten":
            # Crop the image and its mirror image. Mirroring the crops instead would shift the centre crop by a pixel
            # if the margin is odd; torchvision crops mirror images too.
            both = mirrored([resized(image, self.resize, self.interpolation)])
            views = [crop for side in both for crop in (*corners(side, self.size), center(side, self.size))]
        else:
            views = [center(resized(image, self.resize, self.interpolation), self.size)]
        return [self.normalise(view) for view in views]


def describe_views(crops: Crops, size: int, resize: int) -> str:
    """Describe the views of evaluation in words. The arguments are those of `Views`."""
    if crops == "multiscale":
        sides = ", ".join(str(round(scale * size / SCALES[0])) for scale in SCALES)
        return f"whole images with shorter sides of {sides}, and mirrored"
    return f"{crops} crop{'s' if crops == 'ten' else ''} of {size} after resizing to {resize}"


def resized(image: np.ndarray, side: int, interpolation: Interpolation = "bilinear") -> np.ndarray:
    """Resize an image `[H, W, C]` as torchvision does, so that its shorter side is `side` pixels long."""
    if min(image.shape[:2]) == side:
        return image
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    mode = InterpolationMode(interpolation)
    out = F.resize(torch.from_numpy(image.transpose(2, 0, 1)), [side], mode, antialias=True)
    return out.numpy().transpose(1, 2, 0)


def center(image: np.ndarray, size: int) -> np.ndarray:
    """Return the crop `[size, size, C]` at the centre of an image."""
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def corners(image: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the four crops `[size, size, C]` at the corners of an image."""
    return [image[:size, :size], image[:size, -size:], image[-size:, :size], image[-size:, -size:]]


def mirrored(views: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the views, then their mirror images."""
    return [*views, *(view[:, ::-1] for view in views)]


@cache
def _pipeline(preset: str, size: int) -> Compose:
    """Return the albumentations pipeline of a preset. The import is slow, so it happens at the first image."""
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # the loader's workers are the parallelism
    steps: list[BasicTransform] = [
        A.RandomResizedCrop((size, size), scale=(AREA[preset], 1.0)) if preset in AREA else A.RandomCrop(size, size)
    ]
    erase = [A.Erasing(p=0.1)] if preset == "modern" else []
    return A.Compose([*steps, A.HorizontalFlip(p=0.5), *erase])


def _padded(image: np.ndarray, by: int, mean: Sequence[float]) -> np.ndarray:
    """Add a border of the mean colour, which becomes zero after normalisation, as in the paper."""
    height, width, channels = image.shape
    scale = 255 if image.dtype == np.uint8 else 1
    out = np.empty((height + 2 * by, width + 2 * by, channels), image.dtype)
    out[:] = np.round(np.multiply(mean, scale)) if scale == 255 else mean
    out[by : by + height, by : by + width] = image
    return out


def _pca_shifted(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shift an RGB image along the principal components of ImageNet's colours (Krizhevsky et al. 2012)."""
    if image.dtype != np.uint8 or image.shape[2] != 3:
        return image
    shift = PCA_VECTORS @ (random.normal(0, 0.1, 3) * PCA_VALUES) * 255
    return (image + shift).round().clip(0, 255).astype(np.uint8)


def _rand_augment(image: np.ndarray, seed: int) -> np.ndarray:
    """Apply torchvision's RandAugment (Cubuk et al. 2020): two operations of strength 9."""
    import torch
    from torchvision.transforms import v2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = v2.RandAugment()(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
    return out.numpy().transpose(1, 2, 0)
