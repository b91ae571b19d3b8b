"""What a run folder says of its run: metrics, cost, speed, and the course of training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError
from tools.coco_files import read_json

if TYPE_CHECKING:
    from tools.compare_cells import Cell

START = "== begins at "  # stands before the output of each start in a cell's log
PAUSE = 10.0  # an interval this many times longer than its like was an interruption


@dataclass(frozen=True)
class Metric:
    """A fraction (0..1) of results.json and of the evaluation lines, shown in percent.

    Attributes:
        error: show 1 - fraction.
    """

    key: str
    title: str
    error: bool = False

    def percent(self, values: dict[str, Any]) -> float | None:
        """The value in percent; None where it is absent or null."""
        value = values.get(self.key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return 100 * (1 - value) if self.error else 100 * value


@dataclass(frozen=True)
class Task:
    """What a training script is judged by.

    Attributes:
        metrics: columns of the table.
        solid, dashed: curves of the plot, on held-out and on training images.
        axis: what the curves show.
    """

    metrics: tuple[Metric, ...]
    solid: Metric
    dashed: Metric | None
    axis: str


_TOP1 = Metric("top1", "top-1 error %", error=True)
_TRAIN = Metric("train_top1", "training error %", error=True)
_AP = Metric("AP", "AP %")
_MIOU, _PIXELS = Metric("mIoU", "mIoU %"), Metric("pixel_accuracy", "pixel accuracy %")
TASKS = {
    "train_cls": Task((_TOP1, Metric("top5", "top-5 error %", error=True), _TRAIN), _TOP1, _TRAIN, "error (%)"),
    "train_det": Task((_AP, Metric("AP50", "AP50 %"), Metric("AP75", "AP75 %")), _AP, None, "AP (%)"),
    "train_seg": Task((_MIOU, _PIXELS), _MIOU, None, "mIoU (%)"),
}


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
        return (first + _seconds_trained(self.lines, step) + _seconds_evaluated(self.lines)) / 60


def last_error(log: Path) -> str | None:
    """What ended the last start of a cell: its script's error line, or that of a traceback; None where neither is."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = text.rpartition(START)[2].replace("\r", "\n").splitlines()
    own = next((line for line in reversed(lines) if line.startswith("error: ")), None)
    if own is None and any(line.startswith("Traceback ") for line in lines):
        return next(line for line in reversed(lines) if line.strip())
    return own


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; one torn by a kill is left out, a missing file has none."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"step", "time"} <= set(line):
            lines.append(line)
    return lines


def evaluations(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of evaluations."""
    return [line for line in lines if "epoch" in line]


def seconds_per_step(lines: list[dict[str, Any]]) -> float | None:
    """Median time of an optimizer step between two logged lines, which an interruption does not move.

    An interval that ends with a line of losses holds no evaluation: those end with a line of their own.
    """
    rates = [seconds / steps for steps, seconds, evaluated in _intervals(lines) if steps and not evaluated]
    return median(rates) if rates and median(rates) > 0 else None


def _intervals(lines: list[dict[str, Any]]) -> list[tuple[int, float, bool]]:
    """Steps, seconds and whether an evaluation was part of it, from each line to the next."""
    return [
        (after["step"] - before["step"], after["time"] - before["time"], "epoch" in after)
        for before, after in pairwise(lines)
    ]


def _seconds_trained(lines: list[dict[str, Any]], step: float) -> float:
    training = [(steps, seconds) for steps, seconds, evaluated in _intervals(lines) if not evaluated]
    return sum(seconds if seconds <= PAUSE * steps * step else steps * step for steps, seconds in training)


def _seconds_evaluated(lines: list[dict[str, Any]]) -> float:
    times = [seconds for _, seconds, evaluated in _intervals(lines) if evaluated]
    usual = median(times) if times else 0.0
    return sum(seconds if seconds <= PAUSE * usual else usual for seconds in times)
