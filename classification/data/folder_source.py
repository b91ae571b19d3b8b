"""Classification data in image files, in any layout, as an `ImageSource`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backbones.common.bits import WHOLE_BITS, require_bits
from backbones.common.category_options import EVERY_CATEGORY, CategoryOptions
from backbones.common.datasets import spread
from backbones.common.decoded import DecodedImages
from backbones.common.decoding import channels_of
from backbones.common.listing import describe_passed_over
from backbones.common.loading import loader
from backbones.common.processes import shard_batches
from backbones.common.spellings import other_spellings
from backbones.errors import UserError, first_names
from classification.data.chosen import choose_classes
from classification.data.folders import ClassFolder, require_filled
from classification.data.items import Collate, Item, ItemBatch, Transform, collate
from classification.data.layouts import read_split
from classification.data.listing import ClassListing
from classification.data.names import ClassNames
from classification.data.reading import Reading
from classification.data.source import SPLIT_FOLDERS, BadImagePolicy, Choice, Divide, Split
from classification.transforms import Augment, Views

SHOWN = 5  # names of folders in a remark


class FolderSource:
    """Image files with their classes as an `ImageSource`.

    The classes are those of the training split, or `classes`. The name of an image's class, such as that of its folder,
    determines its label. The validation split may lack classes.

    Args:
        root: folder of the data set, in any layout of `classification.data.layouts`, or a CSV file.
        folder_names: name of each split in the data set.
        reading: how to read the data set; by default as without options.
        in_channels: number of channels that every image must have; None for that of the first file.
        sample: use only n images of each split, evenly spread over its classes; 0 for all.
        choose: selects the training images; all by default.
        divide: splits the images of the training folder; by default the validation images have a folder of their own.
        splits: splits to open.
        guard: what happens to images that cannot be read; by default they are errors.
        bits: bits that the values of 16-bit images use; None if the user named none.
        classes: the classes in an evaluation without training, such as those of a weights file; by default those of the
            folders.
        categories: classes to merge, rename and choose.

    Raises:
        UserError: a training class is empty, a validation folder is no class, or files have other numbers of channels.
    """

    def __init__(
        self,
        root: Path,
        *,
        in_channels: int | None,
        sample: int = 0,
        choose: Choice | None = None,
        divide: Divide | None = None,
        splits: tuple[Split, ...],
        guard: BadImagePolicy | None = None,
        folder_names: Mapping[Split, str] = SPLIT_FOLDERS,
        classes: ClassNames | None = None,
        bits: int | None = None,
        reading: Reading | None = None,
        categories: CategoryOptions = EVERY_CATEGORY,
    ) -> None:
        self._guard = guard
        listings = choose_classes(
            _listings(root, {split: folder_names["train" if divide else split] for split in splits}, reading),
            categories,
        )
        self.multi_label = any(listing.multi_label for listing in listings.values())
        self._folders = _class_folders(listings, in_channels=in_channels or 3, classes=classes, bits=bits)
        last = self._folders[splits[-1]]
        self.where: Mapping[Split, str] = {split: listing.source for split, listing in listings.items()}
        self.classes = last.classes
        self.split = divide(last) if divide else None
        self._indices = {split: self._chosen(split, sample) for split in splits}
        self.chosen, self.choosable = "", len(self._indices.get("train", ()))
        if choose and "train" in splits:
            self.chosen = self._choose_training(choose)
        self.remarks: Mapping[Split, str] = {split: self._remark(split, each) for split, each in listings.items()}
        self.in_channels = in_channels or self._channels(last)
        self.train_size = len(self._indices.get("train", ()))
        self.val_size = len(self._indices["val"])
        self.measurable = splits
        # Read one image of each split: images of other channels are then refused before anything is built.
        first = [self._readable(split, None, indices)[0][0] for split, indices in self._indices.items()]
        self.floating = any(isinstance(image, Tensor) and image.is_floating_point() for image in first)

    def keep_decoded(self, cache: DecodedImages | None) -> None:
        for folder in self._folders.values():
            folder.cache = cache

    def train_loader(self, batches: Iterable[list], augment: Augment, *, workers: int, collate: Collate) -> DataLoader:
        data = self._readable("train", augment, self._indices["train"])
        return loader(data, workers=workers, batch_sampler=batches, collate=collate)

    def eval_loader(
        self, split: Split, views: Views, *, rank: int, world_size: int, batch_size: int, workers: int, sample: int = 0
    ) -> Iterable[ItemBatch]:
        chosen = self._sampled(split, sample)
        batches = shard_batches(len(chosen), batch_size, rank=rank, world_size=world_size)
        data = self._dataset(split, views, chosen)
        if self._guard is None:
            return loader(data, workers=workers, collate=collate, batch_sampler=batches)
        return self._guard.evaluation_loader(data, collate=collate, workers=workers, batch_sampler=batches)

    def expected(self, split: Split, sample: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
        if self._guard is None:
            return None
        indices = self._sampled(split, sample)
        return indices, self._folders[split].labels[indices]

    def train_labels(self) -> np.ndarray | None:
        return self._folders["train"].labels[self._indices["train"]]

    def present(self, split: Split) -> np.ndarray | None:
        return np.unique(classes_of(self._folders[split].labels[self._indices[split]])[1])

    def names(self, split: Split, indices: np.ndarray) -> list[str]:
        return [self._folders[split].files[index].decode(errors="replace") for index in indices]

    def fingerprints(self) -> dict[str, str]:
        files = {split: self._folders[split].files[indices] for split, indices in self._indices.items()}
        return {split: hashlib.sha256(b"\0".join(names.tolist())).hexdigest() for split, names in files.items()}

    def statistics(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        indices = self._indices["train"]
        raw = self._readable("train", None, indices)
        # All images count alike, whatever their size: average the moments of the images.
        moments = np.array([_moments(raw[int(index)][0]) for index in spread(len(indices), count)])
        mean, square = moments.mean(axis=0)
        return tuple(mean.tolist()), tuple(np.sqrt((square - mean**2).clip(1e-12)).tolist())

    def _chosen(self, split: Split, sample: int) -> np.ndarray:
        """Return the indices of the images of a split that are used: all, or `sample` that are evenly spread."""
        folder = self._folders[split]
        rows = self.split.rows(folder.file_names(), split) if self.split else np.arange(len(folder))
        return rows[spread(len(rows), sample)]

    def _choose_training(self, choose: Choice) -> str:
        """Keep the training images that `choose` selects; return its remark for the plan."""
        train, indices = self._folders["train"], self._indices["train"]
        names = train.file_names()
        found, chosen = choose(train.labels[indices], train.classes, [names[row] for row in indices.tolist()])
        self._indices["train"] = indices[found]
        return chosen

    def _remark(self, split: Split, listing: ClassListing) -> str:
        present = self.present(split)
        absent = [name for label, name in enumerate(self.classes) if present is not None and label not in present]
        known = set(self.classes)
        fitting = {name: other_spellings(name, known) for name in listing.names}
        respelled = [f"{name} -> {names[0]}" for name, names in fitting.items() if len(names) == 1]
        text = f"names of classes that differ in capitals: {first_names(respelled)}" if respelled else ""
        return "; ".join(filter(None, (remark(listing, absent), text)))

    def _sampled(self, split: Split, sample: int) -> np.ndarray:
        indices = self._indices[split]
        return indices[spread(len(indices), sample)]

    def _channels(self, folder: ClassFolder) -> int:
        """Return the number of channels of the first image in the folder that can be read."""
        for index in range(len(folder)):
            if self._guard is None or folder.unreadable(index) is None:
                return channels_of(folder.path(index))
        raise UserError(f"{folder.root}: none of its {len(folder)} images can be decoded; replace the images")

    def _readable(self, split: Split, transform: Transform | None, indices: np.ndarray) -> Dataset[Item]:
        """Return a split's dataset. Bad images are replaced by others, or are errors if there is no `guard`."""
        data = self._dataset(split, transform, indices)
        return self._guard.replacing(data) if self._guard else data

    def _dataset(self, split: Split, transform: Transform | None, indices: np.ndarray) -> ClassFolder:
        return self._folders[split].with_transform(transform, in_channels=self.in_channels, indices=indices)


def _listings(root: Path, folders: Mapping[Split, str], reading: Reading | None) -> dict[Split, ClassListing]:
    """Read the splits of a data set. If one has several classes an image, all are read so."""
    listings = {split: read_split(root, folder, reading) for split, folder in folders.items()}
    if any(listing.multi_label for listing in listings.values()):
        return {split: listing.as_multi_label() for split, listing in listings.items()}
    return listings


def _class_folders(
    listings: Mapping[Split, ClassListing], *, in_channels: int, classes: ClassNames | None, bits: int | None
) -> dict[Split, ClassFolder]:
    """Return the images of each split, labelled by the classes of the training split, or by `classes` without one.

    Raises:
        UserError: a training class is empty, a validation folder is no class, or images use more than `bits` bits.
    """
    owner = "the weights"
    if "train" in listings:
        require_filled(listings["train"])
        classes, owner = ClassNames.of(listings["train"].names), listings["train"].source
    folders = {
        split: ClassFolder(
            listing, None, in_channels=in_channels, classes=classes, owner=owner, bits=bits or WHOLE_BITS
        )
        for split, listing in listings.items()
    }
    for folder in folders.values():
        require_bits([folder.path(index) for index in range(len(folder))], bits)
    return folders


def remark(listing: ClassListing, absent: Sequence[str]) -> str:
    """Return a remark for the plan on files that are not read and classes without images; empty if there are none.

    Args:
        absent: names of the classes without images.
    """
    parts = []
    if absent:
        parts.append(f"no image of {first_names(absent)}")
    if listing.nested:
        names = ", ".join(listing.nested[:SHOWN])
        parts.append(f"WARNING: all images of {names} lie in folders below, which may be the classes")
    if others := describe_passed_over(listing.passed_over):
        parts.append(f"files passed over: {others}")
    return "; ".join([*parts, *listing.notes])


def classes_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the image and the class of each label.

    Args:
        labels: labels `[N]`, or `[N, classes]` bool in a multi-label data set.
    """
    if labels.ndim == 1:
        return np.arange(len(labels)), labels
    images, classes = np.nonzero(labels)
    return images, classes


def _moments(image: Tensor | list[Tensor]) -> tuple[list[float], list[float]]:
    """Return mean and mean square of each channel of an image `[C, H, W]`."""
    assert isinstance(image, Tensor)  # there are no views without a transform
    values = image.double() / (255 if image.dtype == torch.uint8 else 1)
    return values.mean((1, 2)).tolist(), values.square().mean((1, 2)).tolist()
