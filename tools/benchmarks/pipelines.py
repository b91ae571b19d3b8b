"""Training pipelines, which turn JPEG files into tensors: ours, and those of torchvision's reference presets.

The presets are those of `references/{classification,detection,segmentation}/presets.py`, with their backends
"pil", the default, and "tensor".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from backbones.base import IMAGENET_MEAN, IMAGENET_STD
from backbones.common.datasets import find_split
from backbones.common.decoded import DecodedImages, decoded
from backbones.common.decoding import decode
from classification.data.items import make_item
from classification.transforms import Augment as ClassAugment
from classification.transforms import Normalise
from detection.augmentation.sample import FILL
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import CocoDetection
from detection.transforms import Augment as BoxAugment
from segmentation.data.classes import IGNORE
from segmentation.data.coco import CocoLabels
from segmentation.data.dataset import Segmentation
from segmentation.transforms import Augment as PixelAugment
from tools.benchmarks.rounds import Implementation, Step

PLAIN, FLOATS, CACHED, PEER, TENSORS = "ours", "ours, as floats", "ours, cached", "torchvision", "torchvision, tensors"
CROP = {"classify": 224, "segment": 480}  # side of the crops in pixels
SQUARE = 1024  # side in pixels of the squares of large-scale jitter
BASE = 520  # short side in pixels around which torchvision's segmentation preset resizes
Fetch = Callable[[int, int], object]  # from epoch and index to an item, in the layout of its pipeline
OurFetch = Callable[[int, int], tuple[Any, object]]  # from epoch and index to image and target
Open = Callable[[Path], Any]  # from a file to an image of PIL or a tensor [3, H, W]


@dataclass(frozen=True)
class Images:
    """The training images of a data set, with their boxes and label maps.

    Attributes:
        count: number of images to read.
    """

    boxes: CocoAnnotations
    labels: CocoLabels
    count: int

    @classmethod
    def read(cls, root: Path, *, limit: int | None) -> Images:
        """Read a data set in COCO's layout; its images are ordered by id.

        Args:
            limit: read only the first images; None: all.

        Raises:
            UserError: a file is missing or broken.
        """
        file, folder = find_split(root, "train")
        boxes = CocoAnnotations.read(file, folder, bad_boxes="drop")
        return cls(boxes, CocoLabels(file, folder), min(len(boxes), limit or len(boxes)))

    def __len__(self) -> int:
        return self.count

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self.boxes.folder / str(self.boxes.file_names[index])

    def pixel_bytes(self) -> float:
        """Return the mean size of a decoded image in bytes."""
        return 3 * float(self.boxes.sizes[: self.count].astype(np.int64).prod(axis=1).mean())


def implementations(task: str, images: Images, cache: DecodedImages) -> list[Implementation]:
    """Return the pipelines of a task: ours in three ways, torchvision's in two. One step reads all images once.

    Args:
        cache: keeps the images that `ours, cached` decodes.
    """
    ours, finish = OURS[task](images, None), FINISH[task]
    fetches: dict[str, Fetch] = {
        PLAIN: ours,
        FLOATS: lambda epoch, index: finish(ours(epoch, index)[0]),
        CACHED: OURS[task](images, cache),
        PEER: THEIRS[task](images, open_image),
        TENSORS: THEIRS[task](images, open_tensor),
    }
    return [Implementation(name, partial(passing, fetch, len(images))) for name, fetch in fetches.items()]


def passing(fetch: Fetch, images: int) -> Step:
    """Return a function that calls `fetch` once for every image; each call of the function is the next epoch."""
    epochs = count()

    def step() -> None:
        epoch = next(epochs)
        for index in range(images):
            fetch(epoch, index)

    return step


# --- ours ---


def our_classifier(images: Images, cache: DecodedImages | None) -> OurFetch:
    """Return a function that reads an image as our classification training does: random resized crop and flip."""
    augment = ClassAugment("standard", CROP["classify"], Normalise(IMAGENET_MEAN, IMAGENET_STD))

    def fetch(epoch: int, index: int) -> tuple[Any, object]:
        path = images.path(index)
        read = partial(decode, shrink=augment.shrink_factor)
        pixels = decoded(cache, lambda: read(path.read_bytes(), str(path), 3), path)
        return make_item(augment(pixels, epoch=epoch, index=index), label=0, index=index)

    return fetch


def our_detector(images: Images, cache: DecodedImages | None, preset: str = "light") -> OurFetch:
    """Return a function that reads an image and its boxes as our detection training does, by default flipped."""
    data = CocoDetection(images.boxes, BoxAugment(preset, model_sizes=None if preset == "light" else (SQUARE, SQUARE)))
    data.cache = cache
    return lambda epoch, index: data[epoch, index]


def our_segmenter(images: Images, cache: DecodedImages | None) -> OurFetch:
    """Return a function that reads an image as our segmentation training does: random size, flip, crop and colours."""
    data = Segmentation(images.labels, PixelAugment("train", crop=CROP["segment"]))
    data.cache = cache
    return lambda epoch, index: data[epoch, index]


def scaled(image: Tensor) -> Tensor:
    """Convert a uint8 image to floats in 0..1."""
    return image / 255


def normalised(image: Tensor) -> Tensor:
    """Convert a uint8 image to floats that are normalised by ImageNet's mean and std."""
    return v2.functional.normalize(image / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))


# --- torchvision's ---


def their_classifier(images: Images, opened: Open) -> Fetch:
    """Return a function that reads an image as torchvision's reference script for classification does."""
    preset = v2.Compose(
        [
            v2.RandomResizedCrop(CROP["classify"], antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
            v2.ToPureTensor(),
        ]
    )
    return lambda epoch, index: preset(opened(images.path(index)))


def jittered() -> list[v2.Transform]:
    """Return the transforms of torchvision's reference preset "lsj"."""
    fill = {tv_tensors.Image: list(FILL), "others": 0}
    crop = v2.RandomCrop((SQUARE, SQUARE), pad_if_needed=True, fill=fill)
    return [v2.ScaleJitter((SQUARE, SQUARE), antialias=True), crop, v2.RandomHorizontalFlip(0.5)]


def distorted() -> list[v2.Transform]:
    """Return the transforms of torchvision's reference preset "ssd", with which `strong` is compared."""
    zoom = v2.RandomZoomOut(fill={tv_tensors.Image: list(FILL), "others": 0})
    return [v2.RandomPhotometricDistort(), zoom, v2.RandomIoUCrop(), v2.RandomHorizontalFlip(0.5)]


def flipped() -> list[v2.Transform]:
    """Return the transforms of torchvision's reference preset "hflip"."""
    return [v2.RandomHorizontalFlip(0.5)]


def their_detector(images: Images, opened: Open, transforms: Callable[[], list[v2.Transform]] = flipped) -> Fetch:
    """Return a function that reads an image as torchvision's reference script for detection does."""
    preset = v2.Compose(
        [
            *transforms(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.ConvertBoundingBoxFormat(tv_tensors.BoundingBoxFormat.XYXY),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )

    def fetch(epoch: int, index: int) -> object:
        image = opened(images.path(index))
        boxes, labels, _ = images.boxes.of_image(index)
        size = tuple(v2.functional.get_size(image))
        truth = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=size)  # type: ignore[call-arg]
        return preset(image, {"boxes": truth, "labels": torch.from_numpy(labels)})

    return fetch


def their_segmenter(images: Images, opened: Open) -> Fetch:
    """Return a function that reads an image as torchvision's reference script for segmentation does."""
    preset = v2.Compose(
        [
            v2.RandomResize(min_size=BASE // 2, max_size=2 * BASE),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(CROP["segment"], pad_if_needed=True, fill={tv_tensors.Mask: IGNORE, "others": 0}),
            v2.PILToTensor(),
            v2.ToDtype({Tensor: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
            v2.ToPureTensor(),
        ]
    )

    def fetch(epoch: int, index: int) -> object:
        image = opened(images.path(index))
        height, width = v2.functional.get_size(image)
        mask = images.labels.labels(index, (height, width))
        return preset(image, tv_tensors.Mask(torch.from_numpy(mask)))

    return fetch


def open_image(path: Path) -> Image.Image:
    """Open an image in RGB, as torchvision's folder data sets do."""
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def open_tensor(path: Path) -> Tensor:
    """Open an image as a tensor `[3, H, W]`, as torchvision's presets do with the backend "tensor"."""
    return v2.functional.pil_to_tensor(open_image(path))


OURS: dict[str, Callable[[Images, DecodedImages | None], OurFetch]] = {
    "classify": our_classifier,
    "detect": our_detector,
    "detect-lsj": partial(our_detector, preset="lsj"),
    "detect-strong": partial(our_detector, preset="strong"),
    "segment": our_segmenter,
}
FINISH = {
    "classify": normalised,
    "detect": scaled,
    "detect-lsj": scaled,
    "detect-strong": scaled,
    "segment": normalised,
}
THEIRS: dict[str, Callable[[Images, Open], Fetch]] = {
    "classify": their_classifier,
    "detect": their_detector,
    "detect-lsj": partial(their_detector, transforms=jittered),
    "detect-strong": partial(their_detector, transforms=distorted),
    "segment": their_segmenter,
}
