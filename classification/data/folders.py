"""Folders of classes as a dataset of (image, target) pairs.

ImageNet's layout: `train/CLASS/*.jpg` and `val/CLASS/*.jpg`; the classes are the folders' names in sorted order.
Files are images, or `.npy` arrays `[H, W]` or `[H, W, bands]` of any number of bands.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from backbones.common.datasets import PIXEL_SUFFIXES
from backbones.common.images import read_file
from backbones.errors import UserError
from classification.data.decoding import decode, decode_raw
from classification.data.items import Item, Transform, make_item


class ClassFolder(Dataset):
    """The images of one split, `root/CLASS/*`.

    An item is an image `[C, h, w]`, uint8 or normalised float32 (an array of other numbers than bytes), or a list of
    such views in evaluation; and a target: `label` from 0, and `index`, the image's index in the split.

    Args:
        root: folder of the class folders.
        transform: `Augment` or `Views`; None for pixels as they are decoded.
        in_channels: number of channels that every image must have.
        indices: images to use, in order; all by default.

    Attributes:
        classes: names by label.
        files: paths `[N]` of all images, as bytes, relative to `root`.
        labels: labels `[N]` of all images.
    """

    def __init__(
        self,
        root: Path,
        transform: Transform | None,
        *,
        in_channels: int,
        indices: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        self.root, self.transform, self.in_channels = root, transform, in_channels
        self.classes, self.files, self.labels = scan(root)
        self.indices = np.arange(len(self.files)) if indices is None else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """Return the item for a key `(epoch, index)`, or for an index in epoch 0. The epoch selects the augmentation.

        Raises:
            UserError: the file does not decode or has another number of channels.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = int(self.indices[index])
        path = self.path(row)
        image: np.ndarray | list[np.ndarray] = decode(read_file(path), str(path), self.in_channels)
        if self.transform is not None:
            assert isinstance(image, np.ndarray)
            image = self.transform(image, epoch=epoch, index=row)
        return make_item(image, label=int(self.labels[row]), index=row)

    def with_transform(self, transform: Transform | None, *, in_channels: int, indices: np.ndarray) -> ClassFolder:
        """Return a dataset of the same files with other options, without listing the folder again."""
        other = copy.copy(self)
        other.transform, other.in_channels, other.indices = transform, in_channels, indices
        return other

    def unreadable(self, index: int) -> Path | None:
        """Return an image's file if it is missing or does not decode, else None."""
        path = self.path(int(self.indices[index]))
        try:
            decode_raw(read_file(path), str(path))
        except UserError:
            return path
        return None

    def path(self, row: int) -> Path:
        """Return an image's file by its index in the split."""
        return self.root / os.fsdecode(self.files[row])


def scan(root: Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """List a folder of class folders.

    Returns:
        Class names, files `[N]` (bytes, relative to `root`) and labels `[N]`.

    Raises:
        UserError: the folder or its class folders are missing, or a class has no images.
    """
    if not root.is_dir():
        raise UserError(f"--data {root.parent}: has no folder {root.name}/; expected train/CLASS/* and val/CLASS/*")
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise UserError(f"{root}: has no class folders; expected {root.name}/CLASS/*.jpg")
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path.relative_to(root) for path in image_files(root / name))
        if not found:
            raise UserError(
                f"{root / name}: a class without images ({', '.join(PIXEL_SUFFIXES)}); fill or remove the folder"
            )
        files += [os.fsencode(path) for path in found]
        labels += [label] * len(found)
    # Pack the names into arrays: reading a list of Python objects would copy its memory into each worker.
    return tuple(classes), np.array(files, dtype=np.bytes_), np.array(labels, dtype=np.int64)


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder at any depth, without hidden ones: other programs make those."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(PIXEL_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def require_same_classes(train: Sequence[str], val: Sequence[str], *, here: str, there: str) -> None:
    """Refuse splits whose classes differ: the same label would mean different classes.

    Args:
        here, there: names of the two splits for the message.

    Raises:
        UserError: the classes differ; the message names up to three of them.
    """
    odd = sorted(set(train) ^ set(val))
    if odd:
        shown = ", ".join(f"{name} (only in {here if name in train else there})" for name in odd[:3])
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise UserError(f"the classes of {here} and {there} differ: {shown}{more}; give both the same class folders")
