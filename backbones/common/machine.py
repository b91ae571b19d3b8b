"""Describes the machine that a process runs on. This module imports no heavy library."""

from __future__ import annotations

import os
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_device(name: str | None) -> None:
    """Let PyTorch compute on the CPU what Apple's mps lacks. This must be called before torch is imported.

    Args:
        name: the device that a command names.
    """
    if name is not None and name.startswith("mps"):
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def peak_memory() -> int | None:
    """Return the most memory in bytes that this process has held; None if the system does not tell it."""
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
