"""Data loaders of the training scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


def loader(dataset: Dataset, *, workers: int, collate: Callable[..., Any], **batching: Any) -> DataLoader:
    """A data loader; `batching` is a `batch_sampler`, or a `sampler` and a `batch_size`."""
    return DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        # Its own generator: starting an epoch would draw from the global one, and a resumed epoch starts twice.
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=one_thread,
        **batching,
    )


def one_thread(worker: int) -> None:
    """Keep a worker from spreading over the cores that its siblings use."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
