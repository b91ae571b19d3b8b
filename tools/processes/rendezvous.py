"""Where the processes of one attempt find one another.

torchrun's store outlives the processes, and those that it starts anew would connect to addresses which the dead ones
left there (https://github.com/pytorch/pytorch/issues/135712). Its count of restarts is each machine's own, so it tells
attempts on several machines not apart.
"""

from __future__ import annotations

import secrets
import time
from datetime import timedelta

import torch.distributed as dist

from backbones.errors import UserError

GLANCE = 0.05  # seconds between looks for an answer


def meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """A store that only the processes of this attempt use, this process's rank, and their number.

    All of them have come when it returns.
    """
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    attempt = _welcome(store, world_size) if rank == 0 else _greet(store, rank, timeout)
    return dist.PrefixStore(attempt, store), rank, world_size


def _welcome(store: dist.Store, world_size: int) -> str:
    """Name an attempt, and answer the greeting of every other process."""
    attempt = secrets.token_hex(8)
    store.set("attempt", attempt)
    for rank in range(1, world_size):
        greeting = store.get(f"{attempt}/{rank}").decode()
        store.set(f"{attempt}/{rank}/{greeting}", "welcome")
    return attempt


def _greet(store: dist.Store, rank: int, timeout: timedelta) -> str:
    """The attempt whose first process answers: that of an earlier one is dead."""
    greeting = secrets.token_hex(8)
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        attempt = store.get("attempt").decode()
        store.set(f"{attempt}/{rank}", greeting)
        if store.check([f"{attempt}/{rank}/{greeting}"]):
            return attempt
        time.sleep(GLANCE)
    raise UserError(f"process {rank} did not meet process 0 within {timeout}; see whether it runs, or raise --timeout")
