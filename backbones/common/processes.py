"""Means over all processes of a training run, and the batches of each process.

The processes are torch.distributed's default group. Without a group, every function treats this process as the
only one.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean(values: Tensor) -> Tensor:
    """Return the element-wise mean of a tensor over all processes. Every process gets the result."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def relative_count(count: Tensor) -> Tensor:
    """Return this process's count (a scalar) divided by the mean count of all processes, or by 1 if that is less.

    A loss that is a mean over `count` items must be multiplied by this factor. When DistributedDataParallel then
    averages the gradients, every item has the same weight, whichever process it is on.
    """
    count = count.float()
    return count / mean(count).clamp(min=1)


def shard_batches(length: int, batch_size: int, *, rank: int, world_size: int) -> list[list[int]]:
    """Divide `length` items into batches for evaluation; return the batches of one process as lists of indices.

    Every item is in exactly one batch of one process, and no batch is padded. The batches are the same for every number
    of processes, so that results are equal to the last bit.
    """
    first = range(rank * batch_size, length, world_size * batch_size)
    return [list(range(begin, min(begin + batch_size, length))) for begin in first]
