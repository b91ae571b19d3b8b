"""Rank and number of processes, from torchrun's environment variables; without torchrun there is one process.

`accelerate launch` sets the same variables, because it starts torchrun.
"""

from __future__ import annotations

import os
from pathlib import Path


def rank() -> int:
    """Return the number of this process among all processes, from 0."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """Return the number of processes on all machines together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def processes_on_this_machine() -> int:
    """Return the number of processes on this machine. They divide the CPU cores among them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    """Return whether this is the main process. Only the main process writes files and prints."""
    return rank() == 0


def is_main_of_machine() -> bool:
    """Return whether this is the first process of its machine. All processes of a machine see the same files."""
    return local_rank() == 0


def launcher() -> str | None:
    """Return a name for the launch of torchrun that started this process; None without torchrun.

    The name differs between launches and stays the same when torchrun restarts its processes. It is the name of
    torchrun's log folder: the run id and a random part. The run id alone (`--rdzv_id`) may be reused by another launch.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # FOLDER/attempt_N/RANK/error.json
    return Path(error_file).parents[2].name if error_file else None
