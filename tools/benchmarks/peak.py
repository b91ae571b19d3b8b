"""Measures the peak memory of an implementation, in a new process that has allocated nothing else."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch

from backbones.common import machine, plugins
from tools.benchmarks.fork_server import fork_server
from tools.benchmarks.machine import device, set_up
from tools.benchmarks.rounds import Implementation

STEPS = 2  # the first training step creates the optimizer's state, the second holds it beside the activations
Result = TypeVar("Result")


def peak_memory(implementation: Implementation, *, threads: int) -> int | None:
    """Return the peak bytes of building an implementation and running two steps, less those of an idle process.

    The memory is the GPU's if the device is a CUDA GPU, else main memory. On systems that cannot reset the peak counter
    (macOS) the peak includes memory that only building needed.

    Returns:
        The bytes, or None if the process was killed, for example because memory ran out.
    """
    return in_fresh_process(partial(_probe, implementation, threads, str(device())))


def in_fresh_process(work: Callable[[], Result]) -> Result | None:
    """Call `work` in a new process and return its result.

    Args:
        work: a function that can be pickled, for example a partial of a module's function.

    Returns:
        The result of `work`, or None if the process ended without one, for example because memory ran out.
    """
    context = fork_server()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work, plugins.loaded_names()))
    process.start()
    sender.close()
    try:
        found: Result = receive(receiver, process)
        return found
    except EOFError:
        return None


def receive(receiver: Connection, process: BaseProcess) -> Any:
    """Return what a process sends, and end the process.

    It gets time to end by itself, because Python warns of the semaphores of a killed process.

    Raises:
        EOFError: the process ended without sending anything.
    """
    try:
        found = receiver.recv()
        process.join(timeout=10)
        return found
    finally:
        process.kill()
        process.join()


def _answer(connection: Connection, work: Callable[[], object], plugin_names: Sequence[str]) -> None:
    # Leave Ctrl-C to the parent process, which kills this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plugins.load(plugin_names)
    connection.send(work())


def _probe(implementation: Implementation, threads: int, device_name: str) -> int:
    """Build an implementation, run two steps, and return the peak memory in bytes."""
    set_up(threads, device_name)
    _load_kernels()
    before = restart_peak()
    step = implementation.prepare()
    restart_peak()
    for _ in range(STEPS):
        step()
    return peak() - before


def _load_kernels() -> None:
    """Make torch start its threads and load its code, so that their memory is not charged to the implementation."""
    conv = torch.nn.Conv2d(4, 4, 3)
    conv(torch.zeros(1, 4, 8, 8)).sum().backward()


def restart_peak() -> int:
    """Reset the process's recorded peak memory to its present memory; return the present memory in bytes."""
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # the file exists on Linux only
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Return the peak memory of this process in bytes since the last `restart_peak()`."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    return machine.peak_memory() or 0
