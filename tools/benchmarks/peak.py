"""Peak memory of a contestant, measured in a fresh process, where nothing else was ever allocated."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from backbones.common import plugins
from tools.benchmarks.rounds import Contestant

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
    found: int | None = in_fresh_process(partial(_probe, contestant, threads))
    return found


def in_fresh_process(work: Callable[[], Any]) -> Any | None:
    """What `work` returns in a process of its own; None where that ended without, as when memory runs out.

    Args:
        work: something that can be pickled, such as a partial of a module's function.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work, plugins.loaded_names()))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def _answer(connection: Connection, work: Callable[[], Any], plugin_names: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which kills this process
    plugins.load(plugin_names)
    connection.send(work())


def _probe(contestant: Contestant, threads: int) -> int:
    from tools.benchmarks.machine import set_up

    set_up(threads)
    _load_kernels()
    before = restart_peak()
    step = contestant.prepare()
    restart_peak()
    for _ in range(STEPS):
        step()
    return peak() - before


def _load_kernels() -> None:
    """Let the libraries start their threads and load their code, which is no contestant's need."""
    import torch

    conv = torch.nn.Conv2d(4, 4, 3)
    conv(torch.zeros(1, 4, 8, 8)).sum().backward()


def restart_peak() -> int:
    """Set the peak back to what is held now, and return it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux's own
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Most memory held since the last restart, in bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
