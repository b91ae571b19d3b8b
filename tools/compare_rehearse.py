"""What an experiment will take: a few steps of its cells, in processes of their own, before any is trained."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

from backbones.errors import UserError
from tools.compare_cells import Cell
from tools.compare_jobs import signals_interrupt, threads
from tools.rehearsal import Rehearsal


def rehearsals(cells: Sequence[Cell], *, jobs: int) -> dict[str, Rehearsal]:
    """Rehearse cells, `jobs` at a time as they will be trained; those that differ in the seed alone only once.

    On a share of the data each seed has images of its own, so that each is looked at.

    Returns:
        A rehearsal for each cell's name.

    Raises:
        UserError: where cells cannot run: what their scripts say of the first one, and how many there are.
    """
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(_likeness(cell), []).append(cell)
    with _pool(jobs) as pool:
        asked = [
            pool.submit(_rehearse, first.script, (*first.words, *_threads(first, jobs))) for first, *_ in alike.values()
        ]
        try:
            told = [each.result() for each in asked]
        except BrokenProcessPool:
            raise UserError("a rehearsal of a cell was killed, perhaps for its memory; pass --rehearse false") from None
    mistakes = [
        (cells[0].name, text) for cells, text in zip(alike.values(), told, strict=True) if isinstance(text, str)
    ]
    if mistakes:
        name, text = mistakes[0]
        more = f" ({len(mistakes)} cells cannot run)" if len(mistakes) > 1 else ""
        raise UserError(f"cell {name}: {text}{more}")
    found = zip(alike.values(), told, strict=True)
    return {cell.name: each for cells, each in found for cell in cells if not isinstance(each, str)}


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that an interrupt or SIGTERM ends at once: by themselves they would rehearse all that waits."""
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
    with signals_interrupt(), ProcessPoolExecutor(jobs, mp_context=context, initializer=_ignore_interrupts) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - {*others}:
                child.kill()
            raise


def _ignore_interrupts() -> None:
    """Ctrl-C in a terminal goes to all its processes; the one that waits for these ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _likeness(cell: Cell) -> str:
    """The same for cells that take the same steps."""
    free = () if cell.config["fraction"] < 1 else ("seed",)
    return json.dumps([cell.script, {key: value for key, value in cell.config.items() if key not in free}])


def _threads(cell: Cell, jobs: int) -> tuple[str, ...]:
    share = threads(cell, jobs)
    return (f"--threads={share}",) if share else ()


def _rehearse(script: str, words: Sequence[str]) -> Rehearsal | str:
    """A dry run of a script in this process; its error in one line where it refuses."""
    with tempfile.TemporaryDirectory() as folder, _silence():
        try:
            return import_module(f"tools.{script}").main([*words, "--dry-run", f"--output={Path(folder) / 'run'}"])
        except UserError as error:
            return str(error)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what a script prints off the terminal, that of its data workers included."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(io.StringIO()), redirect_stderr(nowhere):
        yield
