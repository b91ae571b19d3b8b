"""Keeps the memory on which this process handles signals.

OpenVINO replaces that memory when it opens a model. When two models are closed in the order in which they were opened,
it leaves the process with memory that it has freed: the next signal, such as that of a loader worker that ends, kills
the process.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """The system's `stack_t` on Linux."""

    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def signal_stack() -> SignalStack | None:
    """Return the memory on which this thread handles signals; None on systems other than Linux."""
    if sys.platform != "linux":
        return None
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Context manager after which this thread handles signals on the same memory as before."""
    stack = signal_stack()
    try:
        yield
    finally:
        if stack is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)
