"""State of a cell (one run of an experiment), read from its folder: finished, to be resumed, or to be started."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from backbones.common.files import JsonObject, read_yaml
from backbones.common.options import renamed, resumable
from backbones.common.run_files import CONFIG_FILE, RESULTS_FILE
from backbones.errors import UserError
from tools.engine.checkpoint import generations
from tools.engine.run_folder import LAST, foreign_files, leftover_files
from tools.experiments.cells import Cell
from tools.tasks.options import COMMANDS

CellState: TypeAlias = Literal["done", "resume", "begin"]


def read_state(cell: Cell, folder: Path) -> CellState:
    """Return whether a cell (run) is finished, must be resumed from its checkpoint, or must be started.

    Raises:
        UserError: the folder holds a run with other options, or files that are not a training's.
    """
    if (folder / CONFIG_FILE).is_file():
        _require_same_options(cell, folder)
        if (folder / RESULTS_FILE).is_file():
            return "done"
        if generations(folder / LAST):
            return "resume"
    foreign = foreign_files(folder)
    if foreign:
        raise UserError(
            f"{folder}: holds {min(foreign).relative_to(folder)} but no run that can be continued; move "
            "the folder away or name another --output"
        )
    return "begin"


def clear_leftovers(folder: Path) -> None:
    """Remove files of a training that was killed early, so that the training command accepts the folder."""
    for path in leftover_files(folder):
        path.unlink()


def _require_same_options(cell: Cell, folder: Path) -> None:
    groups = COMMANDS[cell.script].groups
    free = resumable(groups, evaluation=False)
    before = renamed(_read_config(folder / CONFIG_FILE), groups)
    for name, value in cell.config.items():
        if name not in free and name in before and before[name] != value:
            raise UserError(
                f"{folder}: was made with --{name.replace('_', '-')} {before[name]}, but the experiment says {value}; "
                "move the folder away, name another --output, or change the experiment back"
            )


def _read_config(path: Path) -> JsonObject:
    values = read_yaml(path, fix="move the run folder away")
    if not isinstance(values, dict):
        raise UserError(f"{path}: does not contain the options of a run; move the run folder away")
    return values
