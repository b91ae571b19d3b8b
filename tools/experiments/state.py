"""How far a cell is, read from its run folder, and the folder made ready for its next start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from backbones.common.files import read_yaml
from backbones.common.options import renamed, resumable
from backbones.errors import UserError
from tools.engine.checkpoint import generations
from tools.engine.run_folder import LAST, foreign_files, leftover_files
from tools.experiments.cells import Cell
from tools.tasks.options import COMMANDS

State = Literal["done", "resume", "begin"]


def state(cell: Cell, folder: Path) -> State:
    """Whether a cell is finished, goes on from its checkpoint, or begins.

    Raises:
        UserError: where the folder holds a run of other options, or files that no run of ours leaves.
    """
    if (folder / "config.yaml").is_file():
        _refuse_contradictions(cell, folder)
        if (folder / "results.json").is_file():
            return "done"
        if generations(folder / LAST):
            return "resume"
    strange = foreign_files(folder)
    if strange:
        raise UserError(
            f"{folder}: holds {min(strange).relative_to(folder)} but no run to go on with; "
            "move the folder away or name another --output"
        )
    return "begin"


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed start left, so that the script takes the folder for a new run."""
    for path in leftover_files(folder):
        path.unlink()


def _refuse_contradictions(cell: Cell, folder: Path) -> None:
    groups = COMMANDS[cell.script].groups
    free = resumable(groups, evaluation=False)
    before = renamed(_config(folder / "config.yaml"), groups)
    for name, wanted in cell.config.items():
        if name not in free and name in before and before[name] != wanted:
            raise UserError(
                f"{folder}: was made with --{name} {before[name]}, the experiment wants {wanted}; "
                "move the folder away, name another --output, or change the experiment back"
            )


def _config(path: Path) -> dict[str, Any]:
    values = read_yaml(path, fix="move the run folder away")
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no options; move the run folder away")
    return values
