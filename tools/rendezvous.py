"""Where the processes of one attempt find one another.

torchrun's store outlives the processes, and those that it starts anew would connect to addresses which the dead ones left
there (https://github.com/pytorch/pytorch/issues/135712). Its count of restarts is each machine's own, so it tells
attempts on several machines not apart.
"""

from __future__ import annotations

import secrets
from datetime import timedelta

import torch.distributed as dist

GLANCE = timedelta(seconds=1)  # how long to wait for an answer before looking whether another attempt has begun


def meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """A store that only the processes of this attempt use, this process's rank, and their number.

    All of them have come when it returns.
    """
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    attempt = _welcome(store, world_size) if rank == 0 else _greet(store, rank)
    return dist.PrefixStore(attempt, store), rank, world_size


def _welcome(store: dist.Store, world_size: int) -> str:
    """Name an attempt, and answer the greeting of every other process."""
    attempt = secrets.token_hex(8)
    store.set("attempt", attempt)
    for rank in range(1, world_size):
        greeting = store.get(f"{attempt}/{rank}").decode()
        store.set(f"{attempt}/{rank}/{greeting}", "welcome")
    return attempt


def _greet(store: dist.Store, rank: int) -> str:
    """The attempt whose first process answers: that of an earlier one is dead."""
    greeting = secrets.token_hex(8)
    while True:
        attempt = store.get("attempt").decode()
        store.set(f"{attempt}/{rank}", greeting)
        try:
            store.wait([f"{attempt}/{rank}/{greeting}"], GLANCE)
            return attempt
        except dist.DistStoreError:
            continue
