"""Opens classification data, in class folders or tar shards, behind one interface."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backbones.common.bits import WHOLE_BITS, require_bits
from backbones.common.listing import describe_passed_over
from backbones.common.loading import loader
from backbones.common.processes import shard_batches
from backbones.errors import UserError
from classification.data.decoding import channels_of, decode
from classification.data.folders import ClassFolder, ClassListing, list_classes, require_filled, split_folder
from classification.data.items import Collate, Item, ItemBatch, Transform, collate
from classification.data.names import ClassNames
from classification.data.shard_index import holds_shards, read_index
from classification.data.shards import EvalShards, ShardBatches, ShardStream, shard_loader
from classification.transforms import Augment, Views

Split: TypeAlias = Literal["train", "val"]
SPLIT_FOLDERS: Mapping[Split, str] = {"train": "train", "val": "val"}
SHOWN = 5  # names of classes in a remark
# Selects training images: labels `[N]` and class names -> indices `[M]` of the images to use.
Choice: TypeAlias = Callable[[np.ndarray, tuple[str, ...]], np.ndarray]


class ImageSource(Protocol):
    """Interface of the data set of a classification run: class folders or tar shards.

    Attributes:
        classes: names by label.
        in_channels: number of channels of the images.
        train_size, val_size: number of images that are used of each split.
        measurable: splits that `eval_loader` accepts.
        where: folder or address of each split, for the plan.
        remarks: remarks about each split for the plan: files that are not read, classes without images.
        floating: whether the images are floating arrays, according to the first image of each split.
    """

    classes: tuple[str, ...]
    in_channels: int
    train_size: int
    val_size: int
    measurable: tuple[Split, ...]
    where: Mapping[Split, str]
    remarks: Mapping[Split, str]
    floating: bool

    def train_loader(self, batches: Any, augment: Augment, *, workers: int, collate: Collate) -> DataLoader:
        """Return a loader of the training batches that `batches` lists."""

    def eval_loader(
        self, split: Split, views: Views, *, rank: int, world_size: int, batch_size: int, workers: int, sample: int = 0
    ) -> Iterable[ItemBatch]:
        """Return a loader of this process's part of a split.

        With folders, the batches do not depend on the number of processes. With shards, only the images do not.

        Args:
            sample: use only this many images, evenly spread; 0 for all.
        """

    def expected(self, split: Split, sample: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
        """Return indices `[N]` and labels `[N]` of all images that `eval_loader` should yield, over all processes.

        Return None if images cannot be missing from it.
        """

    def present(self, split: Split) -> np.ndarray | None:
        """Return the labels `[P]` of the classes that have images in a split, or None if this is not known."""

    def names(self, split: Split, indices: np.ndarray) -> list[str]:
        """Return the names of images for tables. `indices` are their indices in the split."""

    def fingerprints(self) -> dict[str, str]:
        """Return for each split a hash of its image names in order. Equal hashes mean the same data."""

    def statistics(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std per channel over `count` evenly spread training images. Bytes are scaled to 0..1."""


class BadImagePolicy(Protocol):
    """Interface of a policy for images that cannot be read, such as `tools.engine.bad_images.BadImages`."""

    def replacing(self, data: ClassFolder) -> Dataset[Item]:
        """Return a dataset that replaces each bad image by another image."""

    def evaluation_loader(
        self,
        data: ClassFolder,
        *,
        workers: int,
        collate: Callable[[list[Item]], ItemBatch],
        batch_sampler: list[list[int]],
    ) -> Iterable[ItemBatch]:
        """Return a data loader without bad images."""


class FolderSource:
    """Class folders `train/CLASS/*` and `val/CLASS/*` as an `ImageSource`.

    The classes are the folders of the training split, or `classes`. The name of a folder determines its label. The\n
    validation split may lack classes.

    Args:
        root: folder of the splits.
        folder_names: name of the folder of each split.
        in_channels: number of channels that every image must have; None for that of the first file.
        sample: use only n images of each split, evenly spread over its classes; 0 for all.
        choose: selects the training images; all by default.
        splits: splits to open.
        guard: what happens to images that cannot be read; by default they are errors.
        bits: bits that the values of 16-bit images use; None if the user named none.
        classes: the classes in an evaluation without training, such as those of a weights file; by default those of the
            folders.

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
        splits: tuple[Split, ...],
        guard: BadImagePolicy | None = None,
        folder_names: Mapping[Split, str] = SPLIT_FOLDERS,
        classes: ClassNames | None = None,
        bits: int | None = None,
    ) -> None:
        self._guard = guard
        listings = {split: list_classes(split_folder(root, folder_names[split])) for split in splits}
        owner = "the weights"
        if "train" in splits:
            classes, owner = ClassNames.of(listings["train"].names), str(listings["train"].root)
            require_filled(listings["train"])
        self._folders = {
            split: ClassFolder(
                listing, None, in_channels=in_channels or 3, classes=classes, owner=owner, bits=bits or WHOLE_BITS
            )
            for split, listing in listings.items()
        }
        for folder in self._folders.values():
            require_bits([folder.path(index) for index in range(len(folder))], bits)
        self.where: Mapping[Split, str] = {split: str(listing.root) for split, listing in listings.items()}
        self._indices = {split: spread(len(folder), sample) for split, folder in self._folders.items()}
        if choose and "train" in splits:
            train, indices = self._folders["train"], self._indices["train"]
            self._indices["train"] = indices[choose(train.labels[indices], train.classes)]
        last = self._folders[splits[-1]]
        self.classes = last.classes
        self.remarks: Mapping[Split, str] = {split: self._remark(split, each) for split, each in listings.items()}
        self.in_channels = in_channels or self._channels(last)
        self.train_size = len(self._indices.get("train", ()))
        self.val_size = len(self._indices["val"])
        self.measurable = splits
        # Read one image of each split: images of other channels are then refused before anything is built.
        first = [self._readable(split, None, indices)[0][0] for split, indices in self._indices.items()]
        self.floating = any(isinstance(image, Tensor) and image.is_floating_point() for image in first)

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

    def present(self, split: Split) -> np.ndarray | None:
        return np.unique(self._folders[split].labels[self._indices[split]])

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

    def _remark(self, split: Split, listing: ClassListing) -> str:
        present = self.present(split)
        absent = [name for label, name in enumerate(self.classes) if present is not None and label not in present]
        return remark(listing, absent)

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


class ShardSource:
    """Tar shards, local or on a server, as an `ImageSource`.

    Args:
        address: folder or URL.
        in_channels: number of channels that every image must have; None for 3.
        sample: must be 0: shards are streams.
        buffer: images that a process holds in memory to shuffle the training images.

    Raises:
        UserError: `sample` is not 0, or the shards or their index are broken.
    """

    def __init__(self, address: str, *, in_channels: int | None, sample: int = 0, buffer: int) -> None:
        if sample:
            raise UserError("--sample: does not work with tar shards; make smaller shards with tools/make_shards.py")
        self._index, self._buffer = read_index(address), buffer
        self.classes, self.in_channels = self._index.classes, in_channels or 3
        self.train_size, self.val_size = self._index.count("train"), self._index.count("val")
        self.measurable: tuple[Split, ...] = ("val",)
        self.where: Mapping[Split, str] = dict.fromkeys(("train", "val"), address)
        self.remarks: Mapping[Split, str] = dict.fromkeys(("train", "val"), "")
        self.floating = False  # unknown here; mixing refuses floating images when they come

    def train_loader(self, batches: ShardBatches, augment: Augment, *, workers: int, collate: Collate) -> DataLoader:
        stream = ShardStream(
            self._index, batches, decode=decode, transform=augment, in_channels=self.in_channels, buffer=self._buffer
        )
        return shard_loader(stream, workers=workers, collate=collate)

    def eval_loader(
        self, split: Split, views: Views, *, rank: int, world_size: int, batch_size: int, workers: int, sample: int = 0
    ) -> DataLoader:
        if split != "val":
            raise UserError(
                "--train-eval: does not work with tar shards, whose training images come in random "
                "order; leave --train-eval out"
            )
        part = EvalShards(
            self._index,
            batch_size=batch_size,
            decode=decode,
            transform=views,
            in_channels=self.in_channels,
            rank=rank,
            world_size=world_size,
        )
        return shard_loader(part, workers=workers, collate=collate)

    def expected(self, split: Split, sample: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def present(self, split: Split) -> np.ndarray | None:
        return None

    def names(self, split: Split, indices: np.ndarray) -> list[str]:
        return [f"{split} sample {index}" for index in indices]

    def fingerprints(self) -> dict[str, str]:
        shards = {"train": self._index.train, "val": self._index.val}
        return {split: hashlib.sha256(repr(found).encode()).hexdigest() for split, found in shards.items()}

    def statistics(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        raise UserError("--normalise data: does not work with tar shards; use --normalise backbone")


def open_source(
    address: str,
    *,
    in_channels: int | None,
    sample: int = 0,
    choose: Choice | None = None,
    buffer: int = 4096,
    splits: tuple[Split, ...],
    guard: BadImagePolicy | None = None,
    folder_names: Mapping[Split, str] = SPLIT_FOLDERS,
    classes: ClassNames | None = None,
    bits: int | None = None,
) -> FolderSource | ShardSource:
    """Open class folders or tar shards. The arguments are those of `FolderSource` and `ShardSource`.

    Raises:
        UserError: there is no data set, or it is broken. Shards do not support `sample`, `choose` (the images are not
            known before they come) and `guard` (the image drawn for a bad one would depend on the number of
            processes).
    """
    if holds_shards(address):
        if guard is not None:
            raise UserError("--on-bad-image skip: does not work with tar shards; make new shards of images that decode")
        if choose is not None:
            raise UserError("--fraction: does not work with tar shards; use class folders")
        if folder_names != SPLIT_FOLDERS:
            raise UserError(
                "--train-split, --val-split: do not work with tar shards, whose splits are always train and "
                "val; leave both options out"
            )
        if bits not in (None, WHOLE_BITS):
            raise UserError(f"--bits {bits}: not for tar shards; convert the images to 8 bits")
        return ShardSource(address, in_channels=in_channels, sample=sample, buffer=buffer)
    if not Path(address).is_dir():
        raise UserError(f"--data {address}: no such folder; check the path")
    return FolderSource(
        Path(address),
        in_channels=in_channels,
        sample=sample,
        choose=choose,
        splits=splits,
        guard=guard,
        folder_names=folder_names,
        classes=classes,
        bits=bits,
    )


def remark(listing: ClassListing, absent: Sequence[str]) -> str:
    """Return a remark for the plan on files that are not read and classes without images; empty if there are none.

    Args:
        absent: names of the classes without images.
    """
    parts = []
    if absent:
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        parts.append(f"no image of {', '.join(absent[:SHOWN])}{more}")
    if listing.nested:
        names = ", ".join(listing.nested[:SHOWN])
        parts.append(f"WARNING: all images of {names} lie in folders below, which may be the classes")
    if others := describe_passed_over(listing.passed_over):
        parts.append(f"files passed over: {others}")
    return "; ".join(parts)


def spread(size: int, sample: int) -> np.ndarray:
    """Return the indices of at most `sample` of `size` images, evenly spread; 0 means all images.

    The images of a folder are sorted by class, so that all classes are sampled in proportion.
    """
    count = min(size, sample or size)
    return np.arange(count) * size // max(count, 1)


def _moments(image: Tensor | list[Tensor]) -> tuple[list[float], list[float]]:
    """Return mean and mean square of each channel of an image `[C, H, W]`."""
    assert isinstance(image, Tensor)  # there are no views without a transform
    values = image.double() / (255 if image.dtype == torch.uint8 else 1)
    return values.mean((1, 2)).tolist(), values.square().mean((1, 2)).tolist()
