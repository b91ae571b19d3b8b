"""Lists class folders, and provides the images of any layout as a dataset of (image, target) pairs.

Class folders lie as in ImageNet, `train/CLASS/*.jpg` and `val/CLASS/*.jpg`. The classes are the sorted folder names.
Files are images, or `.npy` arrays `[H, W]` or `[H, W, bands]` of any number of bands.
"""

from __future__ import annotations

import copy
import os
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from backbones.common.datasets import existing_split
from backbones.common.decoded import DecodedImages, decoded
from backbones.common.decoding import decode, decode_raw
from backbones.common.images import read_file
from backbones.common.listing import describe_passed_over, list_files, subfolders, visible
from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.errors import UserError, first_names
from classification.data.items import Item, Transform, make_item
from classification.data.listing import ALL, ClassListing, NoSplitError, count_suffixes, labels_by_name
from classification.data.names import ClassNames

# Folders of data sets with boxes or label maps, which lie where classes would.
OTHER_LAYOUTS = {"images", "labels", "masks", "annotations"}
# Names of folders that are no classes of a data set without splits.
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
NO_CLASSES = {*OTHER_LAYOUTS, *SPLITS, "img", "imgs"}


class ClassFolder(Dataset):
    """Dataset of the images of one split.

    An item is an image `[C, h, w]`, uint8, or normalised float32 for arrays that are not uint8, or a list of such views
    in evaluation; and a target: `label` from 0 (in a multi-label data set a bool for each class), and `index`, the
    image's index in the split.

    Args:
        listing: the files.
        transform: `Augment` or `Views`; None for pixels as they are decoded.
        in_channels: number of channels that every image must have.
        classes: the classes that the folder names are matched with; some may have no folder. With None, the folders
            themselves are the classes, and every folder must contain images.
        owner: what the classes belong to, such as a weights file; for messages.
        bits: bits that the values of 16-bit images use.

    Attributes:
        classes: names by label.
        cache: keeps decoded images; by default each is decoded every time.
        files: paths `[N]` of all images, as bytes, relative to `root`.
        labels: labels `[N]` of all images, or `[N, classes]` bool in a multi-label data set.
    """

    def __init__(
        self,
        listing: ClassListing,
        transform: Transform | None,
        *,
        in_channels: int,
        classes: ClassNames | None = None,
        owner: str = "",
        bits: int = 16,
    ) -> None:
        if classes is None:
            require_filled(listing)
        self.root, self.transform, self.in_channels, self.files = listing.root, transform, in_channels, listing.files
        self.classes = listing.names if classes is None else classes.names
        self.labels = listing.numbers if classes is None else labels_by_name(listing, classes, owner=owner)
        self.indices, self.bits = np.arange(len(self.files)), bits
        self.cache: DecodedImages | None = None

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
        image: np.ndarray | list[np.ndarray] = decoded(self.cache, partial(self._decode, path), path, self.transform)
        if self.transform is not None:
            assert isinstance(image, np.ndarray)
            image = self.transform(image, epoch=epoch, index=row)
        return make_item(image, label=self.labels[row], index=row)

    def _decode(self, path: Path) -> np.ndarray:
        shrink = self.transform.shrink_factor if self.transform else None
        return decode(read_file(path), str(path), self.in_channels, self.bits, shrink=shrink)

    def with_transform(self, transform: Transform | None, *, in_channels: int, indices: np.ndarray) -> ClassFolder:
        """Return a dataset of the same files with another transform, number of channels and choice of images."""
        other = copy.copy(self)
        other.transform, other.in_channels, other.indices = transform, in_channels, indices
        return other

    def unreadable(self, index: int) -> Path | None:
        """Return the file of an image if it is missing or does not decode, or None if the image can be read."""
        path = self.path(int(self.indices[index]))
        try:
            decode_raw(read_file(path), str(path))
        except UserError:
            return path
        return None

    def file_names(self) -> list[str]:
        """Return the paths of all images relative to `root`."""
        return [os.fsdecode(file) for file in self.files.tolist()]

    def path(self, row: int) -> Path:
        """Return the file of an image. `row` is the image's index in the split."""
        return self.root / os.fsdecode(self.files[row])


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split. For "val", the folders valid, validation and dev are accepted as well.

    Raises:
        UserError: there is no such folder.
    """
    folder = root / existing_split(split, lambda name: (root / name).is_dir())
    if not folder.is_dir():
        others = [f"{entry.name}/" for entry in subfolders(root)]
        raise NoSplitError(
            f"--data {root}: has no folder {split}/ (existing folders: "
            f"{', '.join(others[:5]) or 'none'}); arrange the images as SPLIT/CLASS/*, or name other "
            "splits with --train-split and --val-split"
        )
    return folder


def has_class_folders(root: Path, split: str) -> bool:
    """Return whether a data set holds class folders: `SPLIT/CLASS/*` with images, or `CLASS/*`.

    Folders whose names say that they hold the images of another layout, such as `images`, are no classes.
    """
    folder = root / existing_split(split, lambda name: (root / name).is_dir())
    folder = folder if folder.is_dir() else root
    return any(_has_images(each) for each in subfolders(folder) if each.name.lower() not in NO_CLASSES)


def is_flat(root: Path) -> bool:
    """Return whether a folder holds class folders without folders for the splits, `root/CLASS/*`."""
    folders = subfolders(root)
    return not any(each.name.lower() in NO_CLASSES for each in folders) and any(map(_has_images, folders))


def list_flat(root: Path, split: str) -> ClassListing:
    """List class folders without folders for the splits. They are one split, which is called "all" or "train".

    Raises:
        UserError: another split is wanted.
    """
    if split in (ALL, "train"):
        return list_classes(root)
    names = first_names([each.name for each in subfolders(root)], 3)
    raise NoSplitError(
        f"--data {root}: has no split {split}, because its folders ({names}) are classes; divide the images with "
        "--val-fraction, or arrange them as train/CLASS/* and val/CLASS/*"
    )


def list_classes(root: Path) -> ClassListing:
    """List the class folders of a split, `root/CLASS/*`, and the images at any depth below each of them.

    Raises:
        UserError: there are no class folders, or they are those of a data set of boxes or label maps.
    """
    folders = [entry.name for entry in subfolders(root)]
    if not folders:
        raise UserError(f"{root}: has no class folders; expected {root.name}/CLASS/*.jpg")
    if "images" in folders and set(folders) <= OTHER_LAYOUTS and len(folders) > 1:
        raise UserError(
            f"{root}: holds {', '.join(folders)}, which look like the folders of a data set of boxes or "
            f"label maps and not like classes; expected {root.name}/CLASS/*.jpg"
        )
    beside = (entry for entry in visible(root, "*") if entry.is_file())
    passed_over = count_suffixes(beside)
    files: dict[str, list[Path]] = {}
    for name in folders:
        found = list_files(root / name, PIXEL_SUFFIXES)
        files[name] = [file.relative_to(root) for file in found.files]
        passed_over.update(found.passed_over)
    names = tuple(name for name in folders if files[name])
    # Pack the names into an array: reading a list of Python objects would copy its memory into each worker.
    return ClassListing(
        root,
        names,
        np.array([os.fsencode(file) for name in names for file in files[name]], dtype=np.bytes_),
        np.repeat(np.arange(len(names)), [len(files[name]) for name in names]),
        empty=tuple(name for name in folders if not files[name]),
        nested=tuple(name for name in names if all(len(file.parts) > 2 for file in files[name])),
        passed_over=passed_over,
    )


def _has_images(folder: Path) -> bool:
    """Return whether images lie in a folder itself, not below it."""
    return any(entry.suffix.lower() in PIXEL_SUFFIXES for entry in visible(folder, "*"))


def require_filled(listing: ClassListing) -> None:
    """Refuse class folders without images: a model cannot learn their classes.

    Raises:
        UserError: naming the first empty folder.
    """
    if listing.empty:
        found = describe_passed_over(list_files(listing.root / listing.empty[0], PIXEL_SUFFIXES).passed_over)
        raise UserError(
            f"{listing.root / listing.empty[0]}: this class folder contains {found or 'no files'}, but no "
            f"images ({', '.join(PIXEL_SUFFIXES)}); add images or remove the folder"
        )
