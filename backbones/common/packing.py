"""Sends each batch from a loader's worker process in one shared buffer that holds all tensors of the batch.

torch sends each tensor through a file descriptor of its own. A detection batch has about eight tensors per image, so
that about a hundred images exhaust the usual limit of 1,024 open files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from backbones.errors import UserError, first_line

ALIGNMENT = 64  # bytes; a tensor must begin at a multiple of its item size
SMALL = 4096  # bytes; smaller tensors are copied out of the buffer, so that whoever keeps one does not keep the images
SHARED_MEMORY = Path("/dev/shm")

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class _Place:
    """Place of a tensor in the buffer. `start` is in bytes."""

    start: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Packing(Generic[Batch]):
    """Wraps a collate function. Loader workers send each of its batches in one buffer.

    The receiving process gets the batch itself: same structure, values, types and strides. Without workers nothing is
    packed.
    """

    def __init__(self, collate: Callable[..., Batch]) -> None:
        self.collate = collate

    def __call__(self, items: Any) -> Batch | PackedBatch:
        batch = self.collate(items)
        return batch if get_worker_info() is None else PackedBatch(batch)


class PackedBatch:
    """A batch in one buffer of shared memory; unpickling gives the batch.

    Raises:
        UserError: there is no room in shared memory, or the process may open no more files.
    """

    def __init__(self, batch: object) -> None:
        tensors: list[tuple[Tensor, _Place]] = []
        self.tree = _placed(batch, tensors)
        last = tensors[-1][1] if tensors else None
        size = last.start + last.size if last else 0
        _require_room(size)
        self.buffer = torch.empty(size, dtype=torch.uint8)
        for tensor, place in tensors:
            _view(self.buffer, place).copy_(tensor)
        try:
            # Share it here: an error in the thread that sends it would be lost, and the training would wait for ever.
            self.buffer.share_memory_()
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"--workers: a batch of {size / 1e6:.0f} MB cannot be sent from a worker to the "
                f"training process ({first_line(error)}); lower --workers or --batch-size, or raise the "
                "limit of open files (ulimit -n)"
            ) from None

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, Tensor]]:
        return unpacked, (self.tree, self.buffer)


def unpacked(tree: object, buffer: Tensor) -> object:
    """Rebuild a batch whose tensors were replaced by places in a buffer `[bytes]`.

    Large tensors are views of the buffer.
    """
    if isinstance(tree, _Place):
        view = _view(buffer, tree)
        return view.clone() if tree.size < SMALL else view
    if isinstance(tree, dict):
        return {name: unpacked(item, buffer) for name, item in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(unpacked(item, buffer) for item in tree)  # type: ignore[call-arg,attr-defined]
    return tree


def _placed(value: object, tensors: list[tuple[Tensor, _Place]]) -> object:
    """Replace the tensors in a nested value by places, and append each tensor with its place to `tensors`."""
    if type(value) is Tensor and value.layout == torch.strided and value.device.type == "cpu":
        place = _next_place(value, tensors)
        tensors.append((value, place))
        return place
    if type(value) is dict:
        return {name: _placed(item, tensors) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_placed(item, tensors) for item in value)  # type: ignore[call-arg,attr-defined]
    return value


def _next_place(tensor: Tensor, tensors: list[tuple[Tensor, _Place]]) -> _Place:
    """Return the place of a tensor after the last of `tensors`.

    Dense tensors keep their strides, such as channels_last.
    """
    end = tensors[-1][1].start + tensors[-1][1].size if tensors else 0
    strides = torch.empty_like(tensor, device="meta").stride()
    size = tensor.numel() * tensor.element_size()
    return _Place(-(-end // ALIGNMENT) * ALIGNMENT, size, tensor.dtype, tuple(tensor.shape), strides)


def _view(buffer: Tensor, place: _Place) -> Tensor:
    part = buffer[place.start : place.start + place.size].view(place.dtype)
    return part.as_strided(place.shape, place.strides)


def _require_room(size: int) -> None:
    """Refuse a batch that is larger than the free shared memory.

    Writing such a batch would kill the process (SIGBUS).
    """
    if not SHARED_MEMORY.is_dir() or not hasattr(os, "statvfs"):
        return
    found = os.statvfs(SHARED_MEMORY)
    free = found.f_bavail * found.f_frsize
    if size > free:
        raise UserError(
            f"--workers: a batch takes {size / 1e6:.0f} MB of shared memory, but {SHARED_MEMORY} "
            f"has {free / 1e6:.0f} MB left; lower --workers, --batch-size or --cache-gib, or enlarge "
            f"{SHARED_MEMORY} (docker run --shm-size 8g)"
        )
