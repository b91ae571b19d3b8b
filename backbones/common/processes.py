"""What the processes of a training share: means over all of them, and parts of a whole. One process has it all.

The processes are those of torch.distributed's default group.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean(values: Tensor) -> Tensor:
    """Element-wise mean over the processes, on each of them."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def share(count: Tensor) -> Tensor:
    """A process's count of something (a scalar) over the mean of all processes' counts.

    A loss that is a mean over `count` items, times this, counts as in the mean over everybody's items once
    DistributedDataParallel averages the gradients.
    """
    count = count.float()
    return count / mean(count).clamp(min=1)


def deal(length: int, batch_size: int, *, rank: int, world_size: int) -> list[list[int]]:
    """A process's batches of `length` items for evaluation.

    Whole batches are dealt in turn, disjoint and complete and never padded. The same items come together whatever the
    number of processes, so that what is computed of them is the same to the last bit.
    """
    first = range(rank * batch_size, length, world_size * batch_size)
    return [list(range(begin, min(begin + batch_size, length))) for begin in first]
