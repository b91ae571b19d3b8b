"""Peak memory of a contestant, measured in a fresh process, where nothing else was ever allocated."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from tools.benchmark_rounds import Contestant

STEPS = 2  # the first training step creates the optimizer's moments, the second holds them beside the activations
# Forked from a server that has these loaded already: a probe costs a fraction of a second instead of several. Linux
# hands a process started by exec the peak of the process that started it; a forked one begins anew.
PRELOAD = ["torch", "torchvision", "timm"]


def peak_memory(contestant: Contestant, *, threads: int) -> int | None:
    """Bytes that building the contestant and making its steps needs at most, beyond an idle process.

    Main memory, or the device's where there is one. Where the kernel's peak counter cannot be set back (macOS) the
    peak includes what the building needed for a moment.

    Returns:
        None where the process was killed, as it is when memory runs out.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_probe, args=(sender, contestant, threads), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def _probe(connection: Connection, contestant: Contestant, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which kills this process

    from tools.benchmark_machine import set_up

    set_up(threads)
    _load_kernels()
    before = _restart_peak()
    step = contestant.prepare()
    _restart_peak()
    for _ in range(STEPS):
        step()
    connection.send(_peak() - before)


def _load_kernels() -> None:
    """Let the libraries start their threads and load their code, which is no contestant's need."""
    import torch

    conv = torch.nn.Conv2d(4, 4, 3)
    conv(torch.zeros(1, 4, 8, 8)).sum().backward()


def _restart_peak() -> int:
    """Set the peak back to what is held now, and return it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux's own
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Most memory held since the last restart, in bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
