"""Creates the data loaders of all tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from backbones.common.packing import Packing


def loader(
    dataset: Dataset,
    *,
    workers: int,
    collate: Callable[..., object],
    batch_sampler: Any = None,
    sampler: Sampler | Iterable | None = None,
    batch_size: int | None = 1,
    prefetch_factor: int | None = None,
) -> DataLoader:
    """Return a data loader whose workers stay alive between epochs and use one thread each.

    Args:
        workers: number of worker processes; 0 loads in this process.
        collate: makes a batch from a list of items, or from one item if `batch_size` is None.
        batch_sampler: an iterable over the indices of each batch, instead of `sampler` and `batch_size`.
        sampler: indices in order; all of the dataset by default.
        batch_size: items per batch; None loads items one by one.
        prefetch_factor: batches that each worker loads in advance.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=Packing(collate),
        prefetch_factor=prefetch_factor,
        persistent_workers=workers > 0,
        # The loader draws a seed when an epoch starts. Draw it from a generator of its own: a resumed epoch starts
        # twice, and must leave the global generator as an uninterrupted epoch does.
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=one_thread,
    )


def one_thread(worker: int) -> None:
    """Limit a loader worker to one thread, because the workers already run in parallel."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
