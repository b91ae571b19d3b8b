"""Makes dry runs of an experiment's cells (runs), to show before any training that all work and how long they take."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from backbones.errors import UserError
from tools.engine.rehearsal import Rehearsal
from tools.experiments.cells import Cell
from tools.experiments.jobs import train
from tools.experiments.plan import REPEATED, draws_images
from tools.experiments.state import CellState


def rehearsals(cells: Sequence[Cell], *, jobs: int) -> dict[str, Rehearsal]:
    """Make dry runs of the cells (runs), `jobs` at a time as in training. Cells that differ only in seed
    and fold share one.

    On a part of the data, cells of different seeds or draws have different images, so each of them has a dry run.

    Returns:
        The rehearsal of each cell, by the name of the cell.

    Raises:
        UserError: some cells cannot run; the text has the error of the first one, and the number of such cells.
    """
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(_key(cell), []).append(cell)
    outcomes = _dry_runs([first for first, *_ in alike.values()], jobs=jobs)
    failed = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, str)}
    if failed:
        name, error = next(iter(failed.items()))
        more = f" ({len(failed)} cells cannot run)" if len(failed) > 1 else ""
        raise UserError(f"cell {name}: {error}{more}")
    pairs = [(cell.name, outcomes[same[0].name]) for same in alike.values() for cell in same]
    return {name: outcome for name, outcome in pairs if not isinstance(outcome, str)}


def _key(cell: Cell) -> str:
    """Return a text that is equal for cells (runs) that can share a dry run, because they differ only in the seed."""
    ignored = () if draws_images(cell.config) else REPEATED
    return json.dumps([cell.script, {key: value for key, value in cell.config.items() if key not in ignored}])


def _dry_runs(cells: Sequence[Cell], *, jobs: int) -> dict[str, Rehearsal | str]:
    """Make a dry run of each cell; return by the cell's name its rehearsal, or an error message if it failed."""
    outcomes: dict[str, Rehearsal | str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def ended(cell: Cell, error: str | None) -> None:
            output = (folder / f"{cell.name}.log").read_text(encoding="utf-8", errors="replace")
            outcomes[cell.name] = (
                error.removeprefix("error: ")
                if error
                else Rehearsal.from_output(output) or "the dry run printed no result"
            )

        todo: list[tuple[Cell, CellState]] = [(cell, "begin") for cell in cells]
        train(todo, folder=folder, jobs=jobs, started=lambda *_: None, ended=ended, dry_run=True)
    return {cell.name: outcomes[cell.name] for cell in cells}
