"""Tar shards as a stream of (image, target) pairs, for training and for validation, and the loader over either.

Order is a function of (seed, epoch) and the number of processes and workers. Shards are permuted each epoch and dealt
to the processes, then to the loader workers of each; where there are fewer shards than workers of all processes,
every one reads every shard and takes its part of the samples. Samples are shuffled as undecoded bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from backbones.common.loading import loader
from backbones.errors import UserError
from classification.data.folders import Item, item
from classification.data.shard_index import ShardIndex, holds_shards, read_index
from classification.data.shard_reader import Sample, Shard, read_shard

__all__ = ["EvalShards", "ShardBatches", "ShardIndex", "ShardStream", "holds_shards", "read_index", "shard_loader"]

BUFFER = 4096  # images that one process holds for shuffling, over its workers together


class Decode(Protocol):
    """Bytes of an image file to pixels `[H, W, C]` uint8; a UserError names the file where they are none."""

    def __call__(self, content: bytes, name: str, in_channels: int) -> np.ndarray: ...


class AugmentImage(Protocol):
    """Another image `[h, w, C]` uint8, by (epoch, index)."""

    def __call__(self, image: np.ndarray, *, epoch: int, index: int) -> np.ndarray: ...


class ShardBatches:
    """Where training stands in its stream of batches, and how many there are; a twin of the sampler of folders.

    Every process has exactly `steps * accumulate` batches an epoch, whatever the shards' sizes.

    Args:
        count: samples of the split, over all processes.
        batch_size: images per optimizer step, over all processes and accumulated batches; a multiple of
            `world_size * accumulate`.
        rank: number of this process, of `world_size`.
    """

    def __init__(
        self, count: int, batch_size: int, *, seed: int, accumulate: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        self.count, self.batch_size, self.seed, self.accumulate = count, batch_size, seed, accumulate
        self.rank, self.world_size = rank, world_size
        # In shared memory, since workers that outlive an epoch keep the copy of everything else they started with.
        self._place = torch.zeros(2, dtype=torch.int64).share_memory_()

    @property
    def steps(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-self.count // self.batch_size)

    @property
    def process_batch(self) -> int:
        """Images in one batch of one process."""
        return self.batch_size // (self.world_size * self.accumulate)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration goes through."""
        return int(self._place[0])

    @property
    def first_batch(self) -> int:
        """The batch of this process that the next iteration begins with, counted within the epoch."""
        return int(self._place[1]) * self.accumulate

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make the next iteration begin at a step of an epoch; images before it are read but not decoded."""
        self._place[0], self._place[1] = epoch, step

    def __len__(self) -> int:
        return self.steps * self.accumulate - self.first_batch


class ShardStream(IterableDataset):
    """Training images of one process without end of shards: it goes round again until its batches are full.

    An item is what a folder of images gives: a uint8 image `[C, h, w]` and `{"label", "index"}`, where `index` counts
    the samples of all shards in the index's order.

    With one process and at most one worker each image comes at least once an epoch, and none a third time before all
    came twice. With more, each worker has an equal number of batches but not of images: those with more images than
    that leave some out (others each epoch, since shards are dealt anew), those with fewer show some twice.

    The data loader asks its workers in turn, so worker i of W delivers batches i, i + W, ...; a resumed epoch begins
    at batch f, and there worker i goes on with the stream of worker (f + i) mod W. Resuming is exact with the same
    number of processes and workers.

    Args:
        buffer: images held for shuffling, by all workers of this process together.
    """

    def __init__(
        self,
        index: ShardIndex,
        batches: ShardBatches,
        *,
        decode: Decode,
        augment: AugmentImage,
        in_channels: int = 3,
        buffer: int = BUFFER,
    ) -> None:
        self.shards, self.classes, self.batches = _some(index, "train"), len(index.classes), batches
        self.decode, self.augment, self.in_channels, self.buffer = decode, augment, in_channels, buffer

    @property
    def batch_size(self) -> int:
        """Images of one batch of this process."""
        return self.batches.process_batch

    def __iter__(self) -> Iterator[Item]:
        # Not a generator itself: the place is read now, before anybody seeks on.
        batches, (worker, workers) = self.batches, _worker()
        first, total = batches.first_batch, batches.steps * batches.accumulate
        stream = (first + worker) % workers
        done = len(range(stream, first, workers))
        todo = len(range(first + worker, total, workers))
        samples = self._samples(batches.epoch, stream, workers)
        return self._items(islice(samples, done * self.batch_size, (done + todo) * self.batch_size), batches.epoch)

    def _items(self, samples: Iterable[Sample], epoch: int) -> Iterator[Item]:
        for sample in samples:
            yield _item(sample, self.decode, self.augment, in_channels=self.in_channels, epoch=epoch)

    def _samples(self, epoch: int, worker: int, workers: int) -> Iterator[Sample]:
        """The endless shuffled samples of one of the process's workers in an epoch."""
        import webdataset

        batches = self.batches
        order = np.random.default_rng((batches.seed, epoch)).permutation(len(self.shards))
        readers = batches.world_size * workers
        share = _Share((batches.rank + worker * batches.world_size + epoch) % readers, readers)
        source = random.Random(f"{batches.seed} {epoch} {share.place}")
        size = max(1, self.buffer // workers)
        shuffle = webdataset.shuffle(size, initial=size, rng=source)
        while True:
            # The buffer runs empty before the next round: no image comes twice before each came once.
            yield from shuffle(share.samples([self.shards[place] for place in order], self.classes))


class EvalShards(IterableDataset):
    """Validation images of one process: over all processes and workers each comes exactly once.

    Items are those of `ShardStream`; their order differs with the number of workers.
    """

    def __init__(
        self,
        index: ShardIndex,
        *,
        batch_size: int,
        decode: Decode,
        augment: AugmentImage,
        in_channels: int = 3,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards, self.classes, self.batch_size = _some(index, "val"), len(index.classes), batch_size
        self.decode, self.augment, self.in_channels = decode, augment, in_channels
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Item]:
        worker, workers = _worker()
        share = _Share(self.rank + worker * self.world_size, self.world_size * workers)
        for sample in share.samples(self.shards, self.classes):
            yield _item(sample, self.decode, self.augment, in_channels=self.in_channels, epoch=0)


class _Share:
    """The part of all shards that reader `place` of `readers` takes: parts are disjoint and complete."""

    def __init__(self, place: int, readers: int) -> None:
        self.place, self.readers = place, readers

    def samples(self, shards: Sequence[Shard], classes: int) -> Iterator[Sample]:
        if len(shards) >= self.readers:
            for shard in shards[self.place :: self.readers]:
                yield from read_shard(shard, classes)
            return
        for shard in shards:
            for sample in read_shard(shard, classes):
                if sample.index % self.readers == self.place:
                    yield sample


def shard_loader(
    data: ShardStream | EvalShards, *, workers: int, collate: Callable[[list[Any]], Any]
) -> DataLoader[tuple[Any, Any]]:
    """A data loader over a stream; `loader.dataset.batches` seeks in one for training.

    Args:
        collate: makes a batch of a list of items.
    """
    return loader(data, workers=workers, collate=collate, batch_size=data.batch_size)


def _item(sample: Sample, decode: Decode, augment: AugmentImage, *, in_channels: int, epoch: int) -> Item:
    image = augment(decode(sample.content, sample.name, in_channels), epoch=epoch, index=sample.index)
    return item(image, label=sample.label, index=sample.index)


def _some(index: ShardIndex, split: str) -> tuple[Shard, ...]:
    shards = getattr(index, split)
    if not shards:
        raise UserError(f"{index.address}: has no shards for {split}; add them")
    return shards


def _worker() -> tuple[int, int]:
    """Number of this loader worker, and of all; the process itself is the only one where there are none."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
