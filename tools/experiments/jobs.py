"""Trains the cells (runs) of an experiment in separate processes, several at a time."""

from __future__ import annotations

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

import torch

from backbones.common.machine import cores
from backbones.errors import UserError
from tools.experiments.cell_runs import START, last_error
from tools.experiments.cells import Cell
from tools.experiments.state import CellState, clear_leftovers
from tools.processes.locks import lock_with_children
from tools.processes.stopping import as_keyboard_interrupt, existing

TOOLS = Path(__file__).resolve().parents[1]
POLL = 0.2  # seconds between two looks at the processes
GRACE = 20.0  # seconds that an interrupted training has to end by itself


@dataclass
class Job:
    """A process that is training one cell (run) of an experiment.

    Attributes:
        slot: number of the job among those that run at the same time, from 0.
        process: process of the training command.
        log: file that receives the output of the process.
    """

    cell: Cell
    slot: int
    process: subprocess.Popen[bytes]
    log: Path

    def error(self) -> str | None:
        """Return the error message of a training that has ended, or None on success.

        If the training ended without an error message, write one to the log, from which later tables read it.
        """
        status = self.process.returncode
        if status and last_error(self.log) is None:
            end = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"\nerror: {end}, see {self.log.name}\n")
        return last_error(self.log) if status else None


def train(
    todo: Sequence[tuple[Cell, CellState]],
    *,
    folder: Path,
    jobs: int,
    started: Callable[[Cell, CellState], None],
    ended: Callable[[Cell, str | None], None],
    dry_run: bool = False,
) -> None:
    """Train the cells (runs) of an experiment, `jobs` at a time.

    An interrupt (Ctrl-C, SIGTERM, a closed terminal) ends the trainings; their checkpoints remain.

    Args:
        todo: the cells, and whether each begins or resumes.
        folder: folder of the experiment.
        started: called when a cell starts.
        ended: called when a cell has ended, with its error message, or None on success.
        dry_run: run only a few steps of each cell.
    """
    running: list[Job] = []
    waiting = list(todo)
    with as_keyboard_interrupt(*_ending_signals()):
        try:
            while waiting or running:
                # Start cells in the free slots.
                while waiting and len(running) < jobs:
                    cell, state = waiting.pop(0)
                    slot = min(set(range(jobs)) - {job.slot for job in running})
                    started(cell, state)
                    try:
                        running.append(_start(cell, state, folder=folder, slot=slot, jobs=jobs, dry_run=dry_run))
                    except UserError as error:
                        ended(cell, f"error: {error}")
                    except OSError as error:  # its folder or log cannot be written; those of other cells may be
                        ended(cell, f"error: {error.filename}: {error.strerror}; move it away or name another --output")
                # Collect the cells that have ended.
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    ended(job.cell, job.error())
                time.sleep(POLL)
        finally:
            _stop(running)


def _start(cell: Cell, state: CellState, *, folder: Path, slot: int, jobs: int, dry_run: bool) -> Job:
    """Start the training command of a cell (run). Its output goes to the cell's log.

    Raises:
        UserError: another process trains the cell.
        OSError: the log cannot be written.
    """
    run, log = folder / cell.name, folder / f"{cell.name}.log"
    arguments = ["--resume"] if state == "resume" else list(cell.arguments)
    count = threads(cell, jobs)
    if count:
        arguments.append(f"--threads={count}")
    if dry_run:
        arguments.append("--dry-run=true")
    with open(log, "ab") as file:
        _lock(file, run)
        file.write(f"{START}{time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        file.flush()
        if state == "begin":
            clear_leftovers(run)
        process = subprocess.Popen(
            [sys.executable, str(TOOLS / f"{cell.script}.py"), *arguments, f"--output={run}"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(slot, jobs, count)},
            start_new_session=True,  # Ctrl-C must reach the trainings through `_stop` only, and not their workers
        )
        return Job(cell, slot, process, log)


def threads(cell: Cell, jobs: int) -> int | None:
    """Return the number of CPU threads of a job: the experiment's option, else an equal part of the cores.

    If there is only one job and no such option, return None; the training command then chooses.
    """
    if jobs == 1 or cell.config.get("threads"):
        return cell.config.get("threads")
    return max(1, cores() // jobs)


def environment(slot: int, jobs: int, threads: int | None) -> dict[str, str]:
    """Return the environment variables of a job: its CPU threads and, if there are several jobs, its GPU."""
    extra = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    if jobs > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        if devices and torch.cuda.is_available():
            extra["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return extra


def _lock(log: BinaryIO, run: Path) -> None:
    """Lock a cell (run) through its log file. The training process inherits the lock and keeps it until it ends.

    Raises:
        UserError: a training of the cell is alive, for example after its comparison was killed.
    """
    if not lock_with_children(log, Path(log.name)):
        raise UserError(f"{run}: is being trained by another process; wait until that process ends, or stop it")


def _stop(running: Sequence[Job]) -> None:
    """Interrupt the trainings as Ctrl-C does. After `GRACE` seconds kill those that still run, with their workers."""
    for job in running:
        with suppress(ProcessLookupError):
            job.process.send_signal(_interrupting_signal())
    deadline = time.monotonic() + GRACE
    for job in running:
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C ends the wait
            job.process.wait(max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            _kill(job.process)
        job.process.wait()


def _interrupting_signal() -> signal.Signals:
    """Return the signal that interrupts a training: that of Ctrl-C, or SIGTERM if the training ignores that one.

    Programs that a script starts in the background ignore it, and so do the programs that they start.
    """
    ignores = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return signal.SIGTERM if ignores or os.name != "posix" else signal.SIGINT


def _kill(process: subprocess.Popen) -> None:
    """Kill a training process and its workers. On Windows the workers end when they notice that it is gone."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _ending_signals() -> list[signal.Signals]:
    """Return the signals on which the trainings must be stopped explicitly, as they run in sessions of their own.

    A signal that is ignored, as SIGHUP under nohup, stays ignored.
    """
    return [each for each in existing("SIGTERM", "SIGHUP") if signal.getsignal(each) is not signal.SIG_IGN]
