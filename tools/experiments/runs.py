"""What a run folder says of its run: metrics, cost, speed, and the course of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError
from tools.evaluation.reading import read_json
from tools.runs.log import read_lines, seconds_evaluated, seconds_per_step, seconds_trained

if TYPE_CHECKING:
    from tools.experiments.cells import Cell


START = "== begins at "  # stands before the output of each start in a cell's log


@dataclass(frozen=True)
class Run:
    """What a cell's folder holds so far.

    Attributes:
        cell: what was to be run.
        folder: where it was.
        results: results.json, None as long as the run is unfinished.
        lines: of metrics.jsonl, in order of steps.
        error: what ended its last start, in one line; None where nothing did.
    """

    cell: Cell
    folder: Path
    results: dict[str, Any] | None
    lines: list[dict[str, Any]]
    error: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """All options of the cell."""
        return self.cell.config

    @classmethod
    def read(cls, folder: Path, cell: Cell) -> Run:
        """Read a run folder; one that is not there is a run without results.

        Raises:
            UserError: where results.json is not a JSON object.
        """
        path = folder / "results.json"
        results = read_json(path) if path.is_file() else None
        if results is not None and not isinstance(results, dict):
            raise UserError(f"{path}: not a run's results; move the run folder away")
        error = None if results is not None else last_error(folder.with_name(f"{folder.name}.log"))
        return cls(cell, folder, results, read_lines(folder / "metrics.jsonl"), error)

    def images_per_second(self) -> float | None:
        """Images trained on per second, the time of evaluations aside; None where too little was logged."""
        step = seconds_per_step(self.lines)
        return self.config["batch_size"] / step if step else None

    def minutes(self) -> float | None:
        """Time of training and evaluating, interruptions aside; None where too little was logged."""
        step = seconds_per_step(self.lines)
        if step is None:
            return None
        first = self.lines[0]["step"] * step  # nothing is logged before these steps
        return (first + seconds_trained(self.lines, step) + seconds_evaluated(self.lines)) / 60


def last_error(log: Path) -> str | None:
    """What ended the last start of a cell: its script's error line, or that of a traceback; None where neither is."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = text.rpartition(START)[2].replace("\r", "\n").splitlines()
    own = next((line for line in reversed(lines) if line.startswith("error: ")), None)
    if own is None and any(line.startswith("Traceback ") for line in lines):
        return next(line for line in reversed(lines) if line.strip())
    return own
