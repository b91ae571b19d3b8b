"""Ending a training by signal: what SIGTERM and SIGUSR1 ask for, and the status that says it was done.

SIGTERM is what schedulers, torchrun and service managers end a process with; SIGUSR1 is SLURM's early warning
(`sbatch --signal=USR1@120`).
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STATUS = 143  # 128 + SIGTERM, as shells report it: stopped, saved, ready for --resume
# A scheduler signals every process of a job, and torchrun passes on what it gets: the same wish, heard twice.
ECHO = 1.0  # seconds

_asked_at: float | None = None


class Stopped(Exception):  # noqa: N818 - as KeyboardInterrupt, no error
    """A training that was asked to end, and whose checkpoint lies ready; the text says where."""


@contextmanager
def noticed() -> Iterator[None]:
    """Note the first signal, for the loop to end after its step; one that comes a while later kills at once."""
    global _asked_at
    _asked_at = None
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
        _asked_at = None
    except Stopped:
        _asked_at = None
        raise
    finally:  # beside another error the wish stays known: it may come of processes that ended sooner
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def as_interrupt(*numbers: signal.Signals) -> Iterator[None]:
    """Within, these signals are Ctrl-C: a KeyboardInterrupt, for work that cleans up, or keeps what it has by then."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def asked() -> bool:
    """Whether a signal came."""
    return _asked_at is not None


def shield(loader: Any) -> None:
    """Let the workers of a data loader outlive a signal to all processes, as SLURM and systemd send it.

    The step that is to be finished wants them. They end with this process. To be called before they start.
    """
    loader = getattr(loader, "loader", loader)  # inside one that leaves batches out
    if not isinstance(loader.worker_init_fn, _Shielded):
        loader.worker_init_fn = _Shielded(loader.worker_init_fn)
        Finalize(None, end_workers, exitpriority=0)


@dataclass
class _Shielded:
    """What a worker begins with."""

    then: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self.then is not None:
            self.then(worker)


def end_workers() -> None:
    """End the processes that load data, before Python's own end of child processes, which is a SIGTERM and a wait.

    They do not hear what their loader says when an error interrupts it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes the end of a worker for an error
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _note(number: int, frame: FrameType | None) -> None:
    global _asked_at
    if _asked_at is None:
        _asked_at = time.monotonic()
    elif time.monotonic() - _asked_at > ECHO:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
