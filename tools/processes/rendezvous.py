"""Lets the processes of one launch meet: all agree on a store to which no earlier launch has written.

torchrun keeps its store when it restarts the processes. The new processes would then read the addresses of dead ones
and fail to connect (https://github.com/pytorch/pytorch/issues/135712). torchrun's restart count does not identify the
attempt, because each machine counts for itself. So the main process draws a random name for the attempt, and the others
accept a name only if a living main process answers them under it.
"""

from __future__ import annotations

import secrets
import time
from datetime import timedelta

import torch.distributed as dist

from backbones.errors import UserError

POLL_SECONDS = 0.05  # between two reads of the store


def meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """Wait until all processes of this launch (or restart) have met.

    Returns:
        A store that only this attempt uses, the rank of this process, and the number of processes.

    Raises:
        UserError: the processes did not meet within `timeout`.
    """
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    attempt = _announce_attempt(store, world_size) if rank == 0 else _find_attempt(store, rank, timeout)
    return dist.PrefixStore(attempt, store), rank, world_size


def _announce_attempt(store: dist.Store, world_size: int) -> str:
    """Write a random name for this launch to the store, and confirm to the other processes that it is current."""
    attempt = secrets.token_hex(8)
    store.set("attempt", attempt)
    for rank in range(1, world_size):
        question = store.get(f"{attempt}/{rank}").decode()  # waits for it
        store.set(f"{attempt}/{rank}/{question}", "yes")
    return attempt


def _find_attempt(store: dist.Store, rank: int, timeout: timedelta) -> str:
    """Return the launch name that the main process confirms. Names of earlier launches are not confirmed."""
    question = secrets.token_hex(8)
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        # Ask under the newest name each time: it may still be that of an earlier attempt.
        attempt = store.get("attempt").decode()
        store.set(f"{attempt}/{rank}", question)
        if store.check([f"{attempt}/{rank}/{question}"]):
            return attempt
        time.sleep(POLL_SECONDS)
    raise UserError(
        f"process {rank} could not connect to process 0 within {timeout}; check that process 0 runs, or raise --timeout"
    )
