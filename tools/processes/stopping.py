"""Stops a training on SIGTERM or SIGUSR1: it finishes its step, saves a checkpoint and exits with status 143.

Schedulers, torchrun and service managers end a process with SIGTERM. SLURM sends SIGUSR1 as an early warning
(`sbatch --signal=USR1@120`).
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol, runtime_checkable


def existing(*names: str) -> tuple[signal.Signals, ...]:
    """Return the named signals that this system has. Windows has only SIGTERM and SIGINT."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


SIGNALS = existing("SIGTERM", "SIGUSR1")
STATUS = 143  # 128 + SIGTERM, as shells report it; means: stopped, saved, ready for --resume
# A scheduler signals every process of a job, and torchrun forwards the signal it gets. A second signal within this time
# is therefore the same request.
REPEAT_SECONDS = 1.0

_requested_at: float | None = None


class Stopped(Exception):  # noqa: N818 - as KeyboardInterrupt, no error
    """Raised by a training that stopped on request, after saving a checkpoint. The message names the run folder."""


@runtime_checkable
class WorkerLoader(Protocol):
    """Data loader with a function (`worker_init_fn`) that each worker process calls first."""

    worker_init_fn: Callable[[int], None] | None


@contextmanager
def catch_signals() -> Iterator[None]:
    """Context manager that records the first stop signal, so that training stops after its step. A later one kills."""
    global _requested_at
    _requested_at = None
    before = {number: signal.signal(number, _record) for number in SIGNALS}
    try:
        yield
        _requested_at = None
    except Stopped:
        _requested_at = None
        raise
    finally:  # after another error the request stays recorded, because it may be the cause: see `failures`
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def as_keyboard_interrupt(*numbers: signal.Signals) -> Iterator[None]:
    """Context manager in which the given signals raise KeyboardInterrupt, as Ctrl-C does."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_requested() -> bool:
    """Return whether this process has received a stop signal (SIGTERM or SIGUSR1)."""
    return _requested_at is not None


def protect_workers(loader: object) -> None:
    """Make a loader's worker processes ignore stop signals. This must be called before the workers start.

    SLURM and systemd signal all processes of a job, but the training needs its workers to finish the step. The workers
    end with this process.
    """
    if isinstance(loader, WorkerLoader) and not isinstance(loader.worker_init_fn, _IgnoreSignals):
        from multiprocessing.util import Finalize  # slow to import, which --help would wait for

        loader.worker_init_fn = _IgnoreSignals(loader.worker_init_fn)
        Finalize(None, kill_workers, exitpriority=0)


@dataclass
class _IgnoreSignals:
    """Function that each worker process calls first, to ignore stop signals. As a class it can be pickled."""

    then: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self.then is not None:
            self.then(worker)


def kill_workers() -> None:
    """Kill the data-loading worker processes of this process.

    When Python exits, it sends SIGTERM to child processes and waits for them, but protected workers ignore SIGTERM.
    They also miss their loader's own request to end if an error interrupts the loader.
    """
    for number in existing("SIGCHLD"):
        signal.signal(number, signal.SIG_DFL)  # torch's handler would report the killed workers as an error
    if "multiprocessing" not in sys.modules:  # then it has started no process
        return
    for child in sys.modules["multiprocessing"].active_children():
        if child.daemon:
            child.kill()


def _record(number: int, frame: FrameType | None) -> None:
    """Handle a stop signal: record the first; let one that comes more than `REPEAT_SECONDS` later kill the process."""
    global _requested_at
    if _requested_at is None:
        _requested_at = time.monotonic()
    elif time.monotonic() - _requested_at > REPEAT_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
