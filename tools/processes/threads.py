"""Number of CPU threads of a process."""

from __future__ import annotations

import os

from backbones.common.machine import cores
from tools.processes import distributed


def default_threads() -> int:
    """Return the number of CPU threads of this process: $OMP_NUM_THREADS if set, else an equal part of the cores."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    # torchrun sets the variable to 1 by itself, which leaves most cores of a machine without GPUs idle.
    if chosen.isdigit() and int(chosen) and "TORCHELASTIC_RUN_ID" not in os.environ:
        return int(chosen)
    return max(1, cores() // distributed.processes_on_this_machine())
