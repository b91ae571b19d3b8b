"""Reads the run folder of a cell (one training run of an experiment), finished or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backbones.common.files import JsonObject
from backbones.common.run_files import LOG_FILE, RESULTS_FILE
from backbones.errors import UserError
from tools.evaluation.reading import read_json
from tools.experiments.cells import Cell
from tools.runs.log import read_lines, seconds_evaluated, seconds_per_step, seconds_trained

START = "== begins at "  # precedes the output of each start in a cell's log


@dataclass(frozen=True)
class CellRun:
    """A cell (one training run of an experiment) with the content of its run folder.

    Attributes:
        cell: the cell.
        folder: run folder of the cell.
        results: content of results.json, or None as long as the run is not finished.
        lines: lines of metrics.jsonl, in order of steps.
        error: error message of the last attempt to train the cell, in one line, or None.
    """

    cell: Cell
    folder: Path
    results: JsonObject | None
    lines: list[JsonObject]
    error: str | None = None

    @property
    def config(self) -> JsonObject:
        """All options with which the cell (training run) is trained."""
        return self.cell.config

    @classmethod
    def read(cls, folder: Path, cell: Cell) -> CellRun:
        """Read a run folder; a folder that does not exist is a run without results.

        Raises:
            UserError: results.json is not a JSON object.
        """
        path = folder / RESULTS_FILE
        results = read_json(path) if path.is_file() else None
        if results is not None and not isinstance(results, dict):
            raise UserError(
                f"{path}: is not the results file of a run; move the run folder away, so that the cell is trained again"
            )
        error = None if results is not None else last_error(folder.with_name(f"{folder.name}.log"))
        return cls(cell, folder, results, read_lines(folder / LOG_FILE), error)

    def result(self, key: str) -> float | None:
        """Return the number `key` of results.json, or None if the run is unfinished or has no such result."""
        value = (self.results or {}).get(key)
        return value if isinstance(value, (int, float)) else None

    def images_per_second(self) -> float | None:
        """Return the training speed without evaluations, or None if too little was logged."""
        step = seconds_per_step(self.lines)
        return self.config["batch_size"] / step if step else None

    def minutes(self) -> float | None:
        """Return the time of training and evaluations without interruptions, or None if too little was logged."""
        step = seconds_per_step(self.lines)
        if step is None:
            return None
        before_first_line = self.lines[0]["step"] * step
        return (before_first_line + seconds_trained(self.lines, step) + seconds_evaluated(self.lines)) / 60


def last_error(log: Path) -> str | None:
    """Return the error message of a cell's last training attempt: its line "error: ...", or the end of its traceback.

    Return None if the attempt had no error.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = text.rpartition(START)[2].replace("\r", "\n").splitlines()
    error = next((line for line in reversed(lines) if line.startswith("error: ")), None)
    if error is None and any(line.startswith("Traceback ") for line in lines):
        return next(line for line in reversed(lines) if line.strip())
    return error
