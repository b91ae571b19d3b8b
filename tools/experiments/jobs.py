"""Training the cells of an experiment: each in a process of its own, a few at a time."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backbones.errors import UserError
from tools.experiments.cells import Cell
from tools.experiments.runs import START, last_error
from tools.experiments.state import State, clear_leftovers
from tools.processes.stopping import as_keyboard_interrupt

TOOLS = Path(__file__).resolve().parents[1]
POLL = 0.2  # seconds
GRACE = 20.0  # seconds that an interrupted training has to end by itself


@dataclass
class Job:
    """A cell in training.

    Attributes:
        slot: which of the places for jobs it holds.
        log: what it writes.
    """

    cell: Cell
    slot: int
    process: subprocess.Popen[bytes]
    log: Path

    def error(self) -> str | None:
        """What went wrong; None where it went well. An end without a word is told to the log, for later tables."""
        status = self.process.returncode
        if status and last_error(self.log) is None:
            end = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"\nerror: {end}, see {self.log.name}\n")
        return last_error(self.log) if status else None


def train(
    todo: Sequence[tuple[Cell, State]],
    *,
    folder: Path,
    jobs: int,
    started: Callable[[Cell, State], None],
    ended: Callable[[Cell, str | None], None],
    dry_run: bool = False,
) -> None:
    """Train cells, `jobs` at a time, and call `ended` after each with its error, or None where it went well.

    An interrupt (Ctrl-C, SIGTERM, a closed terminal) ends the trainings; their checkpoints stay.
    """
    running: list[Job] = []
    waiting = list(todo)
    with as_keyboard_interrupt(*_ending()):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell, state = waiting.pop(0)
                    slot = min(set(range(jobs)) - {job.slot for job in running})
                    started(cell, state)
                    try:
                        running.append(_start(cell, state, folder=folder, slot=slot, jobs=jobs, dry_run=dry_run))
                    except UserError as error:
                        ended(cell, f"error: {error}")
                    except OSError as error:  # its folder or log cannot be written; others may
                        ended(cell, f"error: {error.filename}: {error.strerror}; move it away or name another --output")
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    ended(job.cell, job.error())
                time.sleep(POLL)
        finally:
            _stop(running)


def _start(cell: Cell, state: State, *, folder: Path, slot: int, jobs: int, dry_run: bool) -> Job:
    run, log = folder / cell.name, folder / f"{cell.name}.log"
    words = ("--resume",) if state == "resume" else cell.words
    share = threads(cell, jobs)
    extra = (*((f"--threads={share}",) if share else ()), *(("--dry-run=true",) if dry_run else ()))
    with open(log, "ab") as file:
        _lock(file, run)
        file.write(f"{START}{time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        file.flush()
        if state == "begin":
            clear_leftovers(run)
        process = subprocess.Popen(
            [sys.executable, str(TOOLS / f"{cell.script}.py"), *words, *extra, f"--output={run}"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(slot, jobs, share)},
            start_new_session=True,  # Ctrl-C reaches the trainings through `_stop`, their data workers not at all
        )
        return Job(cell, slot, process, log)


def threads(cell: Cell, jobs: int) -> int | None:
    """CPU threads of one of several jobs: what the experiment says, else an equal share of the cores."""
    if jobs == 1 or cell.config.get("threads"):
        return cell.config.get("threads")
    from backbones.common.machine import cores

    return max(1, cores() // jobs)


def environment(slot: int, jobs: int, share: int | None) -> dict[str, str]:
    """Threads and GPU of a job; a single job sees the machine as it is."""
    extra = {"OMP_NUM_THREADS": str(share)} if share else {}
    if jobs > 1:
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        if devices and torch.cuda.is_available():
            extra["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return extra


def _lock(file: BinaryIO, run: Path) -> None:
    """Hold the cell for as long as its training lives, which inherits the lock with its output file.

    Raises:
        UserError: where a training of the cell is alive, such as one of a comparison that was killed.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{run}: is being trained by another process; wait for its end or stop it") from None


def _stop(running: Sequence[Job]) -> None:
    """Interrupt trainings as Ctrl-C would; what is alive after a while is killed, data workers included."""
    for job in running:
        with suppress(ProcessLookupError):
            job.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + GRACE
    for job in running:
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C wants an end at once
            job.process.wait(max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGKILL)
        job.process.wait()


def _ending() -> list[signal.Signals]:
    """Signals to take for Ctrl-C: the trainings are in sessions of their own and would live on.

    Where one is ignored, as SIGHUP under nohup, it stays so.
    """
    return [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
