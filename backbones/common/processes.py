"""Means over all processes of a training run, and the batches of each process.

The processes are torch.distributed's default group. Without a group, every function treats this process as the
only one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_counts: ContextVar[dict[str, Tensor] | None] = ContextVar("_counts", default=None)


def mean(values: Tensor) -> Tensor:
    """Return the element-wise mean of a tensor over all processes. Every process gets the result."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def weighted(losses: Mapping[str, Tensor], count: Tensor) -> dict[str, Tensor]:
    """Turn losses that are means over this process's items into means over the items of all processes.

    This takes a collective operation. Inside `recorded_counts` the losses are returned as they are, and the caller
    weights all losses of a step with one operation.

    Args:
        losses: scalars by name, each a mean over `count` items.
        count: number of these items, a scalar.
    """
    recorded = _counts.get()
    if recorded is not None:
        recorded.update(dict.fromkeys(losses, count.float()))
        return dict(losses)
    weight = relative_count(count)
    return {name: loss * weight for name, loss in losses.items()}


@contextmanager
def recorded_counts() -> Iterator[dict[str, Tensor]]:
    """Context manager in which `weighted` notes the count of each loss by the loss's name, and leaves weights out."""
    found: dict[str, Tensor] = {}
    token = _counts.set(found)
    try:
        yield found
    finally:
        _counts.reset(token)


def relative_count(count: Tensor) -> Tensor:
    """Return this process's count (a scalar) divided by the mean count of all processes; 0 if no process has any.

    A loss that is a mean over `count` items must be multiplied by this factor. When DistributedDataParallel then
    averages the gradients, every item has the same weight, whichever process it is on.
    """
    count = count.float()
    return over_mean(count, mean(count))


def over_mean(counts: Tensor, means: Tensor) -> Tensor:
    """Divide counts of this process by their means over all processes; the result is 0 where no process has any."""
    return counts / means.clamp(min=torch.finfo(counts.dtype).tiny)


def shard_batches(length: int, batch_size: int, *, rank: int, world_size: int) -> list[list[int]]:
    """Divide `length` items into batches for evaluation; return the batches of one process as lists of indices.

    Every item is in exactly one batch of one process, and no batch is padded. The batches are the same for every number
    of processes, so that results are equal to the last bit.
    """
    first = range(rank * batch_size, length, world_size * batch_size)
    return [list(range(begin, min(begin + batch_size, length))) for begin in first]
