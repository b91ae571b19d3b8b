"""Tar shards as streams of (image, target) pairs, for training and for validation.

The order of the images is a function of the seed, the epoch, and the numbers of processes and workers. In each epoch
the shards are permuted and dealt to the processes, then to the loader workers of each process. If there are fewer
shards than workers of all processes, every worker reads all shards and keeps its part of the samples. Samples are
shuffled before they are decoded, as bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from backbones.common.loading import loader
from backbones.common.shrinking import ShrinkFactor
from backbones.errors import UserError
from classification.data.items import Item, Transform, make_item
from classification.data.shard_index import ShardIndex
from classification.data.shard_reader import Sample, Shard, read_shard

BUFFER = 4096  # images that one process, with all its workers, holds in memory to shuffle them


class Decode(Protocol):
    """Function that decodes a file's bytes to pixels `[H, W, in_channels]`. Its UserError contains `name`."""

    def __call__(
        self, content: bytes, name: str, in_channels: int, *, shrink: ShrinkFactor | None = None
    ) -> np.ndarray: ...


class ShardBatches:
    """Number of batches per epoch and current position of a `ShardStream`. It takes the place of a batch sampler.

    Every process has exactly `steps * accumulate` batches per epoch, whatever the sizes of the shards.

    Args:
        count: samples of the split.
        batch_size: images per optimizer step, over all processes and accumulated batches; a multiple of
            `world_size * accumulate`.
        seed: seed of the run.
        accumulate: batches per optimizer step and process.
        rank: number of this process, of `world_size`.
    """

    def __init__(
        self, count: int, batch_size: int, *, seed: int, accumulate: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        self.count, self.batch_size, self.seed, self.accumulate = count, batch_size, seed, accumulate
        self.rank, self.world_size = rank, world_size
        # Epoch and step are in shared memory: workers that live on after an epoch see no other changes.
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()

    @property
    def steps(self) -> int:
        """Return the number of optimizer steps per epoch."""
        return -(-self.count // self.batch_size)

    @property
    def process_batch(self) -> int:
        """Return the number of images in one batch of one process."""
        return self.batch_size // (self.world_size * self.accumulate)

    @property
    def epoch(self) -> int:
        """Return the epoch of the next iteration."""
        return int(self._position[0])

    @property
    def first_batch(self) -> int:
        """Return the index within the epoch of the batch with which this process starts its next iteration."""
        return int(self._position[1]) * self.accumulate

    def seek(self, epoch: int, step: int = 0) -> None:
        """Start the next iteration at a step of an epoch. Earlier images of the epoch are read but not decoded."""
        self._position[0], self._position[1] = epoch, step

    def __len__(self) -> int:
        return self.steps * self.accumulate - self.first_batch


class ShardStream(IterableDataset):
    """Dataset that streams the training images of one process, over and over until its batches are full.

    Items are those of `ClassFolder`: an image `[C, h, w]`, and `label` and `index`; `index` counts the samples of all
    shards in the order of the index.

    With one process and at most one worker, an epoch contains each image at least once, and no image a third time
    before all came twice. With more workers, all workers deliver equal numbers of batches, but their shards may differ
    in the number of images. A worker with more images leaves some out (different ones in each epoch, since shards are
    dealt anew), and a worker with fewer images repeats some.

    The loader takes batches from its workers in turn: worker i of W delivers the batches i, i + W, ... A resumed epoch
    starts at batch f, and its worker i continues the stream of worker (f + i) mod W. Resuming is exact with the same
    numbers of processes and workers.

    Args:
        index: index of the shards.
        batches: the position in the stream.
        decode: decodes a sample.
        transform: augments the pixels.
        in_channels: number of channels of the images.
        buffer: images in memory for shuffling, for all workers of this process together.

    Raises:
        UserError: the index has no training shards.
    """

    def __init__(
        self,
        index: ShardIndex,
        batches: ShardBatches,
        *,
        decode: Decode,
        transform: Transform,
        in_channels: int = 3,
        buffer: int = BUFFER,
    ) -> None:
        self.shards, self.classes, self.batches = _shards_of(index, "train"), len(index.classes), batches
        self.decode, self.transform, self.in_channels, self.buffer = decode, transform, in_channels, buffer

    @property
    def batch_size(self) -> int:
        """Return the number of images in a batch of this process."""
        return self.batches.process_batch

    def __iter__(self) -> Iterator[Item]:
        # Read the position now, and not in a generator, which would read it after the caller's next `seek`.
        batches, (worker, workers) = self.batches, _worker()
        first, total = batches.first_batch, batches.steps * batches.accumulate
        # Continue the stream of the worker that would deliver batch `first + worker` in an uninterrupted epoch.
        stream = (first + worker) % workers
        done = len(range(stream, first, workers))
        todo = len(range(first + worker, total, workers))
        samples = self._samples(batches.epoch, stream, workers)
        return self._items(islice(samples, done * self.batch_size, (done + todo) * self.batch_size), batches.epoch)

    def _items(self, samples: Iterable[Sample], epoch: int) -> Iterator[Item]:
        for sample in samples:
            yield _item(sample, self.decode, self.transform, in_channels=self.in_channels, epoch=epoch)

    def _samples(self, epoch: int, worker: int, workers: int) -> Iterator[Sample]:
        """Yield endlessly the shuffled samples that one of this process's workers gets in an epoch."""
        import webdataset

        batches = self.batches
        # Permute the shards, and let the part of each worker change with the epoch.
        order = np.random.default_rng((batches.seed, epoch)).permutation(len(self.shards))
        readers = batches.world_size * workers
        part = _Part((batches.rank + worker * batches.world_size + epoch) % readers, readers)
        source = random.Random(f"{batches.seed} {epoch} {part.number}")
        size = max(1, self.buffer // workers)
        shuffle = webdataset.shuffle(size, initial=size, rng=source)
        while True:
            # The buffer empties before the next round, so that no image comes twice before each came once.
            yield from shuffle(part.samples([self.shards[number] for number in order], self.classes))


class EvalShards(IterableDataset):
    """Dataset that streams one process's validation images. Each image goes to exactly one worker of one process.

    Items are those of `ShardStream`. Their order depends on the number of workers.

    Args:
        index: index of the shards.
        batch_size: images per batch of this process.
        decode: decodes a sample.
        transform: prepares the pixels.
        in_channels: number of channels of the images.
        rank: number of this process, of `world_size`.

    Raises:
        UserError: the index has no validation shards.
    """

    def __init__(
        self,
        index: ShardIndex,
        *,
        batch_size: int,
        decode: Decode,
        transform: Transform,
        in_channels: int = 3,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards, self.classes, self.batch_size = _shards_of(index, "val"), len(index.classes), batch_size
        self.decode, self.transform, self.in_channels = decode, transform, in_channels
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Item]:
        worker, workers = _worker()
        part = _Part(self.rank + worker * self.world_size, self.world_size * workers)
        for sample in part.samples(self.shards, self.classes):
            yield _item(sample, self.decode, self.transform, in_channels=self.in_channels, epoch=0)


class _Part:
    """Selects the samples for reader `number` out of `readers`, so that each sample goes to exactly one reader."""

    def __init__(self, number: int, readers: int) -> None:
        self.number, self.readers = number, readers

    def samples(self, shards: Sequence[Shard], classes: int) -> Iterator[Sample]:
        if len(shards) >= self.readers:
            # Deal whole shards.
            for shard in shards[self.number :: self.readers]:
                yield from read_shard(shard, classes)
            return
        # There are too few shards: read all of them and deal their samples.
        for shard in shards:
            for sample in read_shard(shard, classes):
                if sample.index % self.readers == self.number:
                    yield sample


def shard_loader(
    data: ShardStream | EvalShards, *, workers: int, collate: Callable[..., object]
) -> DataLoader[tuple[Any, Any]]:
    """Return a data loader for a stream. `loader.dataset.batches.seek` sets the position in a training stream.

    Args:
        collate: makes a batch from a list of items.
    """
    return loader(data, workers=workers, collate=collate, batch_size=data.batch_size)


def _item(sample: Sample, decode: Decode, transform: Transform, *, in_channels: int, epoch: int) -> Item:
    pixels = decode(sample.content, sample.name, in_channels, shrink=transform.shrink_factor)
    return make_item(transform(pixels, epoch=epoch, index=sample.index), label=sample.label, index=sample.index)


def _shards_of(index: ShardIndex, split: Literal["train", "val"]) -> tuple[Shard, ...]:
    shards = index.shards(split)
    if not shards:
        raise UserError(f"{index.address}: has no shards for the split {split}; add some")
    return shards


def _worker() -> tuple[int, int]:
    """Return the index of this loader worker and the number of workers, or 0 and 1 outside a worker."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
