"""Where images come from: class folders or tar shards, behind one interface."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from backbones.common.loading import loader
from backbones.common.processes import deal
from backbones.errors import UserError
from classification.data.folders import (
    ClassFolder,
    channels_of,
    collate,
    decode,
    require_same_classes,
)
from classification.data.shards import (
    EvalShards,
    ShardBatches,
    ShardStream,
    holds_shards,
    read_index,
    shard_loader,
)
from classification.transforms import Augment, Views

Split = Literal["train", "val"]


class Source(Protocol):
    """What a training script asks of its data.

    Attributes:
        classes: names by label.
        in_channels: channels of the images.
        train_size, val_size: images of the splits, as they are used.
        measurable: splits that `eval_loader` takes.
        floating: whether the images are arrays of other numbers than bytes, by the first one.
    """

    classes: tuple[str, ...]
    in_channels: int
    train_size: int
    val_size: int
    measurable: tuple[Split, ...]
    floating: bool

    def train_loader(self, batches: Any, augment: Augment, *, workers: int, collate: Callable[..., Any]) -> DataLoader:
        """Training batches, as `batches` says."""

    def eval_loader(
        self, split: Split, views: Views, *, rank: int, world_size: int, batch_size: int, workers: int, sample: int = 0
    ) -> DataLoader:
        """This process's share of a split, or of `sample` of its images evenly spread.

        Folders give the same batches whatever the number of processes; of shards the images alone are the same.
        """

    def expected(self, split: Split, sample: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
        """Places `[N]` and labels `[N]` of what `eval_loader` gives on all processes together, if some may not come."""

    def names(self, split: Split, places: np.ndarray) -> list[str]:
        """What to call images, by their places in the split."""

    def fingerprints(self) -> dict[str, str]:
        """What tells the images of each split, in this order, from others, by their names."""

    def statistics(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation by channel of `count` training images, evenly spread; bytes count as 0..1."""


class Guard(Protocol):
    """What becomes of images that cannot be read; see `tools.bad_images`."""

    def replacing(self, data: Any) -> Any:
        """The dataset with another image in place of each such one."""

    def evaluation(self, loader: Callable[..., Any], data: Any, *, collate: Callable[..., Any], **options: Any) -> Any:
        """The batches of a loader without such images."""


Choice = Callable[[np.ndarray, tuple[str, ...]], np.ndarray]


class FolderSource:
    """`train/CLASS/*` and `val/CLASS/*`.

    Args:
        in_channels: channels that every image must have; None takes what the first file has.
        sample: use only n images of each split, evenly spread over its classes; 0 for all.
        choose: places to train on among images of these labels `[N]` and class names; all by default.
        guard: of images that cannot be read; without it they are errors.

    Raises:
        UserError: where a class is empty, the classes differ, or the files have another number of channels.
    """

    def __init__(
        self,
        root: Path,
        *,
        in_channels: int | None,
        sample: int = 0,
        choose: Choice | None = None,
        splits: tuple[Split, ...],
        guard: Guard | None = None,
    ) -> None:
        self._guard = guard
        folders = {split: _split_folder(root, split) for split in splits}
        self._folders = {s: ClassFolder(folder, None, in_channels=in_channels or 3) for s, folder in folders.items()}
        self._places = {split: spread(len(folder), sample) for split, folder in self._folders.items()}
        if choose and "train" in splits:
            train, places = self._folders["train"], self._places["train"]
            self._places["train"] = places[choose(train.labels[places], train.classes)]
        last = self._folders[splits[-1]]
        for folder in self._folders.values():
            require_same_classes(folder.classes, last.classes, here=str(folder.root), there=str(last.root))
        self.classes = last.classes
        self.in_channels = in_channels or self._channels(last)
        self.train_size = len(self._places.get("train", ()))
        self.val_size = len(self._places["val"])
        self.measurable = splits
        # One look into each split, so that other channels are refused before anything is built.
        first = [self._whole(split, None, places)[0][0] for split, places in self._places.items()]
        self.floating = any(isinstance(image, torch.Tensor) and image.is_floating_point() for image in first)

    def train_loader(self, batches: Any, augment: Augment, *, workers: int, collate: Callable[..., Any]) -> DataLoader:
        data = self._whole("train", augment, self._places["train"])
        return loader(data, workers=workers, batch_sampler=batches, collate=collate)

    def eval_loader(
        self, split: Split, views: Views, *, rank: int, world_size: int, batch_size: int, workers: int, sample: int = 0
    ) -> DataLoader:
        places = self._places[split]
        chosen = places[spread(len(places), sample)]
        batches = deal(len(chosen), batch_size, rank=rank, world_size=world_size)
        data = self._view(split, views, chosen)
        if self._guard is None:
            return loader(data, workers=workers, collate=collate, batch_sampler=batches)
        return self._guard.evaluation(loader, data, collate=collate, workers=workers, batch_sampler=batches)

    def expected(self, split: Split, sample: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
        if self._guard is None:
            return None
        places = self._places[split]
        places = places[spread(len(places), sample)]
        return places, self._folders[split].labels[places]

    def names(self, split: Split, places: np.ndarray) -> list[str]:
        return [self._folders[split].files[place].decode(errors="replace") for place in places]

    def fingerprints(self) -> dict[str, str]:
        files = {split: self._folders[split].files[places] for split, places in self._places.items()}
        return {split: hashlib.sha256(b"\0".join(names.tolist())).hexdigest() for split, names in files.items()}

    def statistics(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        places = self._places["train"]
        raw = self._whole("train", None, places)
        moments = np.array([_moments(raw[place][0]) for place in spread(len(places), count)])
        mean, square = moments.mean(axis=0)
        return tuple(mean.tolist()), tuple(np.sqrt((square - mean**2).clip(1e-12)).tolist())

    def _channels(self, folder: ClassFolder) -> int:
        """Channels of the first file that can be read."""
        for place in range(len(folder)):
            if self._guard is None or folder.unreadable(place) is None:
                return channels_of(folder.path(place))
        raise UserError(f"{folder.root}: none of its {len(folder)} images decodes")

    def _whole(self, split: Split, transform: Augment | Views | None, places: np.ndarray) -> Any:
        """A view in which others stand in for images that cannot be read, where these are no errors."""
        data = self._view(split, transform, places)
        return self._guard.replacing(data) if self._guard else data

    def _view(self, split: Split, transform: Augment | Views | None, places: np.ndarray) -> ClassFolder:
        return self._folders[split].seen_by(transform, in_channels=self.in_channels, indices=places)


class ShardSource:
    """Tar shards, local or on a server (see `classification.shards`).

    Raises:
        UserError: for a sample, which streams do not have, and where the shards or their list are broken.
    """

    def __init__(self, address: str, *, in_channels: int | None, sample: int = 0, buffer: int) -> None:
        if sample:
            raise UserError("--sample: not for tar shards; make smaller shards with tools/make_shards.py")
        self._index, self._buffer = read_index(address), buffer
        self.classes, self.in_channels = self._index.classes, in_channels or 3
        self.train_size, self.val_size = self._index.count("train"), self._index.count("val")
        self.measurable: tuple[Split, ...] = ("val",)
        self.floating = False  # not looked into; what cannot be mixed is refused when it comes

    def train_loader(
        self, batches: ShardBatches, augment: Augment, *, workers: int, collate: Callable[..., Any]
    ) -> DataLoader:
        common: dict[str, Any] = {"decode": decode, "augment": augment, "in_channels": self.in_channels}
        stream = ShardStream(self._index, batches, buffer=self._buffer, **common)
        return shard_loader(stream, workers=workers, collate=collate)

    def eval_loader(
        self, split: Split, views: Views, *, rank: int, world_size: int, batch_size: int, workers: int, sample: int = 0
    ) -> DataLoader:
        if split != "val":
            raise UserError("training shards are streamed in random order and cannot be measured")
        common: dict[str, Any] = {"decode": decode, "augment": views, "in_channels": self.in_channels}
        part = EvalShards(self._index, batch_size=batch_size, rank=rank, world_size=world_size, **common)
        return shard_loader(part, workers=workers, collate=collate)

    def expected(self, split: Split, sample: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def names(self, split: Split, places: np.ndarray) -> list[str]:
        return [f"{split} sample {place}" for place in places]

    def fingerprints(self) -> dict[str, str]:
        shards = {"train": self._index.train, "val": self._index.val}
        return {split: hashlib.sha256(repr(found).encode()).hexdigest() for split, found in shards.items()}

    def statistics(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        raise UserError("--normalise data: not for tar shards; take backbone")


def open_source(
    address: str,
    *,
    in_channels: int | None,
    sample: int = 0,
    choose: Choice | None = None,
    buffer: int = 4096,
    splits: tuple[Split, ...],
    guard: Guard | None = None,
) -> FolderSource | ShardSource:
    """The data at a folder, or at a folder or address of tar shards.

    Raises:
        UserError: where there are none, they are broken, images of shards shall be chosen, which no one has seen before
            they come, or shards shall be guarded: which image is drawn in place of a bad one would hang on the number
            of processes.
    """
    if holds_shards(address):
        if guard is not None:
            raise UserError("--on-bad-image skip: not for tar shards; make them anew of images that decode")
        if choose is not None:
            raise UserError("--fraction: not for tar shards; take class folders")
        return ShardSource(address, in_channels=in_channels, sample=sample, buffer=buffer)
    if not Path(address).is_dir():
        raise UserError(f"--data {address}: no such folder")
    return FolderSource(
        Path(address), in_channels=in_channels, sample=sample, choose=choose, splits=splits, guard=guard
    )


def _split_folder(root: Path, split: Split) -> Path:
    """`train` or `val`; a data set without the latter may call it `test`."""
    return root / ("test" if split == "val" and not (root / "val").exists() and (root / "test").is_dir() else split)


def spread(size: int, sample: int) -> np.ndarray:
    """Places of at most `sample` (0: all) of `size` images at even distances: each class, sorted, has its part."""
    count = min(size, sample or size)
    return np.arange(count) * size // max(count, 1)


def _moments(image: Any) -> tuple[list[float], list[float]]:
    """Mean and mean square by channel of an image tensor `[C, H, W]`."""
    values = image.double() / (255 if image.dtype == torch.uint8 else 1)
    return values.mean((1, 2)).tolist(), values.square().mean((1, 2)).tolist()
