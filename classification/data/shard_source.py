"""Classification data in tar shards, as an `ImageSource`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from torch.utils.data import DataLoader

from backbones.common.data_split import DataSplit
from backbones.common.decoded import DecodedImages
from backbones.common.decoding import decode
from backbones.errors import UserError
from classification.data.items import Collate, collate
from classification.data.shard_index import read_index
from classification.data.shards import EvalShards, ShardBatches, ShardStream, shard_loader
from classification.data.source import Split
from classification.transforms import Augment, Views


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
        self.split: DataSplit | None = None
        self.chosen, self.choosable = "", self.train_size  # the images of shards cannot be chosen
        self.floating = False  # unknown here; mixing refuses floating images when they come
        self.multi_label = False

    def keep_decoded(self, cache: DecodedImages | None) -> None:
        if cache is not None:
            raise UserError("--cache: does not work with tar shards, which are read in order; leave it out")

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

    def train_labels(self) -> np.ndarray | None:
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
