"""Provides images with label maps as a dataset of (image, target) pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from backbones.common.channels_last import pad_image, stack_images, to_tensor
from backbones.common.decoded import DecodedImages, decoded
from backbones.common.decoding import decode_raw, is_bands
from backbones.common.images import read_file, read_image
from backbones.errors import UserError
from segmentation.data.classes import IGNORE, Classes
from segmentation.transforms import Augment


class Target(TypedDict):
    """Target of one image: its label map `mask` `[h, w]` uint8, and its `index` in the split."""

    mask: Tensor
    index: int


Item: TypeAlias = tuple[Tensor, Target]
# Targets of a batch of whole images: `mask`, a list of label maps `[h, w]` uint8, and `index` `[N]`.
WholeTargets: TypeAlias = dict[str, Any]


class LabelSource(Protocol):
    """Interface of the images and label maps of one split.

    Attributes:
        classes: names and colours by class number.
        where: name of the data for messages.
        passed_over: number of the files by suffix in the folders of images and label maps that are not read.
        in_channels: number of channels of the images.
        notes: number of cases in which something was corrected in reading, by description.
    """

    classes: Classes
    where: str
    passed_over: Mapping[str, int]
    notes: Mapping[str, int]
    in_channels: int

    def __len__(self) -> int: ...

    def image(self, row: int) -> np.ndarray:
        """Return the pixels of an image, `[H, W, C]`: uint8, or float32 for bands that are not uint8."""

    def size(self, row: int) -> tuple[int, int]:
        """Return the height and width of an image without decoding its pixels."""

    def labels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """Return the label map `[H, W]` uint8 of an image of size (height, width). `IGNORE` marks pixels to ignore."""

    def file(self, row: int) -> Path:
        """Return the path of an image's file."""


class Segmentation(Dataset):
    """Dataset of the images of a split with their label maps.

    An item is an image `[C, h, w]` and its `Target`. Images are uint8, or float32 with `statistics` applied.

    Args:
        source: images and label maps.
        augment: augmentation, a function of (seed, epoch, index).
        indices: images to use, in order; all by default.

    Attributes:
        cache: keeps decoded images and label maps; by default each is decoded every time.
        statistics: mean and std of each channel, which normalise floating images; the model normalises bytes itself.
    """

    def __init__(
        self, source: LabelSource, augment: Augment, *, indices: Sequence[int] | np.ndarray | None = None
    ) -> None:
        self.source, self.augment = source, augment
        self.cache: DecodedImages | None = None
        self.statistics: tuple[Sequence[float], Sequence[float]] | None = None
        self.indices = np.arange(len(source)) if indices is None else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """Return the item for a key `(epoch, index)`, or for an index in epoch 0. The epoch selects the augmentation.

        Raises:
            UserError: the image or its label map cannot be used; the message names the file.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = int(self.indices[index])
        which = (self.source.where, row, self.source.file(row))
        image = decoded(self.cache, partial(self.source.image, row), "image", *which)
        size = (image.shape[0], image.shape[1])
        labels = decoded(self.cache, partial(self.source.labels, row, size), "labels", *which)
        image, labels = self.augment(image, labels, epoch=epoch, index=row)
        if self.statistics is not None and image.dtype != np.uint8:
            mean, std = self.statistics
            image = ((image - np.array(mean)) / np.array(std)).astype(np.float32)
        return to_tensor(image), {"mask": torch.from_numpy(np.ascontiguousarray(labels)), "index": row}

    def unreadable(self, index: int) -> Path | None:
        """Return the file of an image if it is missing or does not decode, or None if the image can be read."""
        path = self.source.file(int(self.indices[index]))
        try:
            if is_bands(path.name, self.source.in_channels):
                decode_raw(read_file(path), str(path))
            else:
                read_image(path, apply_exif=False)
        except UserError:
            return path
        return None

    def fingerprint(self) -> str:
        """Return a hash of the names of all images and classes, in order. Equal hashes mean the same data."""
        names = [self.source.file(int(row)).name for row in self.indices]
        return hashlib.sha256("\0".join([*self.source.classes.names, *names]).encode(errors="replace")).hexdigest()

    def pixel_counts(self, indices: Sequence[int]) -> np.ndarray:
        """Count the pixels of each class in the images at `indices`, before augmentation: `[len(indices), K]`."""
        counts = np.zeros((len(indices), len(self.source.classes)), np.int64)
        for place, row in enumerate(self.indices[list(indices)]):
            labels = self.source.labels(int(row), self.source.size(int(row)))
            counts[place] = np.bincount(labels.ravel(), minlength=IGNORE + 1)[: counts.shape[1]]
        return counts


def collate(items: Iterable[Item]) -> tuple[Tensor, dict[str, Tensor]]:
    """Stack training crops to images `[N, C, h, w]`, and their targets to `mask` `[N, h, w]` and `index` `[N]`.

    Smaller crops get a border whose pixels are ignored.

    Raises:
        UserError: the batch mixes bytes and floats.
    """
    images, targets = zip(*items, strict=True)
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    return stack_images([pad_image(image, height, width) for image in images]), {
        "mask": torch.stack([_padded_mask(target["mask"], height, width) for target in targets]),
        "index": torch.tensor([target["index"] for target in targets]),
    }


def collate_whole(items: Iterable[Item]) -> tuple[list[Tensor], WholeTargets]:
    """Collect whole images `[C, h, w]` and their label maps in lists, because their sizes may differ."""
    images, targets = zip(*items, strict=True)
    indices = torch.tensor([target["index"] for target in targets])
    return list(images), {"mask": [target["mask"] for target in targets], "index": indices}


def _padded_mask(mask: Tensor, height: int, width: int) -> Tensor:
    return F.pad(mask, (0, width - mask.shape[1], 0, height - mask.shape[0]), value=IGNORE)
