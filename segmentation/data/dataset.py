"""Images with label maps as a dataset of (image, target) pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from backbones.common.images import read_image
from backbones.errors import UserError
from segmentation.data.labels import IGNORE, Classes
from segmentation.transforms import Augment

Item = tuple[Tensor, dict[str, Any]]


class Source(Protocol):
    """Where images and label maps of a split come from.

    Attributes:
        classes: what the numbers mean.
        where: what to call it in messages.
    """

    classes: Classes
    where: str

    def __len__(self) -> int: ...

    def image(self, row: int) -> np.ndarray:
        """`[H, W, 3]` RGB uint8."""

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of an image, which is not decoded."""

    def labels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` uint8 of an image of (height, width): class numbers, 255 where nothing counts."""

    def file(self, row: int) -> Path:
        """The image's file."""


class Segmentation(Dataset):
    """The images of a split.

    An item is a uint8 image `[3, h, w]` and a target: `mask`, class numbers `[h, w]` uint8 with 255 where nothing
    counts, and `index`, the image's place in the split.

    Args:
        augment: what happens to an image, by (seed, epoch, index).
        indices: which images, in order; all by default.
    """

    def __init__(self, source: Source, augment: Augment, *, indices: Sequence[int] | np.ndarray | None = None) -> None:
        self.source, self.augment = source, augment
        self.indices = np.arange(len(source)) if indices is None else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """One image; a key `(epoch, index)` chooses the augmentation, a plain index stands for epoch 0.

        Raises:
            UserError: naming the file, where the image or its label map cannot be used.
        """
        epoch, place = key if isinstance(key, tuple) else (0, key)
        row = int(self.indices[place])
        image = self.source.image(row)
        labels = self.source.labels(row, (image.shape[0], image.shape[1]))
        image, labels = self.augment(image, labels, epoch=epoch, index=row)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return pixels, {"mask": torch.from_numpy(np.ascontiguousarray(labels)), "index": row}

    def unreadable(self, place: int) -> Path | None:
        """The file of an image that is missing or does not decode; None where it is whole."""
        path = self.source.file(int(self.indices[place]))
        try:
            read_image(path, apply_exif=False)
        except UserError:
            return path
        return None

    def fingerprint(self) -> str:
        """What tells these images, in this order, and these classes from others, by their names."""
        names = [self.source.file(int(row)).name for row in self.indices]
        return hashlib.sha256("\0".join([*self.source.classes.names, *names]).encode(errors="replace")).hexdigest()

    def pixel_counts(self, places: Sequence[int]) -> np.ndarray:
        """Pixels of each class in each of these images `[len(places), K]`, as they are before augmentation."""
        counts = np.zeros((len(places), len(self.source.classes)), np.int64)
        for place, row in enumerate(self.indices[list(places)]):
            labels = self.source.labels(int(row), self.source.size(int(row)))
            counts[place] = np.bincount(labels.ravel(), minlength=IGNORE + 1)[: counts.shape[1]]
        return counts


def collate(items: Iterable[Item]) -> tuple[Tensor, dict[str, Any]]:
    """Training crops as tensors: images `[N, 3, h, w]`, `mask` `[N, h, w]`, `index` `[N]`.

    Smaller images get a border, whose pixels do not count.
    """
    images, targets = zip(*items, strict=True)
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    batch = {
        "mask": torch.stack([_padded(target["mask"], height, width, IGNORE) for target in targets]),
        "index": torch.tensor([target["index"] for target in targets]),
    }
    return torch.stack([_padded(image, height, width, 0) for image in images]), batch


def collate_whole(items: Iterable[Item]) -> tuple[list[Tensor], dict[str, Any]]:
    """Whole images of their own sizes as lists."""
    images, targets = zip(*items, strict=True)
    indices = torch.tensor([target["index"] for target in targets])
    return list(images), {"mask": [target["mask"] for target in targets], "index": indices}


def _padded(x: Tensor, height: int, width: int, value: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), value=value)
