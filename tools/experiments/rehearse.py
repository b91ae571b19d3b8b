"""What an experiment will take: a few steps of its cells, in processes of their own, before any is trained."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from backbones.errors import UserError
from tools.engine.rehearsal import Rehearsal
from tools.experiments.cells import Cell
from tools.experiments.jobs import train
from tools.experiments.state import State


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
    found = _dry_runs([first for first, *_ in alike.values()], jobs=jobs)
    mistakes = [name for name, told in found.items() if isinstance(told, str)]
    if mistakes:
        more = f" ({len(mistakes)} cells cannot run)" if len(mistakes) > 1 else ""
        raise UserError(f"cell {mistakes[0]}: {found[mistakes[0]]}{more}")
    told = [(cell.name, found[same[0].name]) for same in alike.values() for cell in same]
    return {name: each for name, each in told if not isinstance(each, str)}


def _likeness(cell: Cell) -> str:
    """The same for cells that take the same steps."""
    free = () if cell.config["fraction"] < 1 else ("seed",)
    return json.dumps([cell.script, {key: value for key, value in cell.config.items() if key not in free}])


def _dry_runs(cells: Sequence[Cell], *, jobs: int) -> dict[str, Rehearsal | str]:
    """What the scripts tell of each cell, or why it cannot run, in the cells' order."""
    told: dict[str, Rehearsal | str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def end(cell: Cell, error: str | None) -> None:
            log = (folder / f"{cell.name}.log").read_text(encoding="utf-8", errors="replace")
            told[cell.name] = error.removeprefix("error: ") if error else Rehearsal.read(log)

        todo: list[tuple[Cell, State]] = [(cell, "begin") for cell in cells]
        train(todo, folder=folder, jobs=jobs, started=lambda *_: None, ended=end, dry_run=True)
    return {cell.name: told[cell.name] for cell in cells}
