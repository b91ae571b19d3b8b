"""Reads the log of a run, metrics.jsonl: its lines, and the time of training and evaluation without interruptions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from backbones.common.files import JsonObject

PAUSE = 10.0  # an interval this many times longer than usual was an interruption


def read_lines(path: Path) -> list[JsonObject]:
    """Read the lines of a metrics.jsonl. An incomplete last line is left out; a missing file has no lines."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"step", "time"} <= set(line):
            lines.append(line)
    return lines


def evaluations(lines: Sequence[JsonObject]) -> list[JsonObject]:
    """Return the lines of a log that hold the metrics of an evaluation."""
    return [line for line in lines if "epoch" in line]


def seconds_per_step(lines: Sequence[JsonObject]) -> float | None:
    """Return the median time of an optimizer step, from the times of neighbouring log lines; None if too few.

    The median ignores interruptions. Intervals that end with an evaluation line are left out: an evaluation took part
    of their time.
    """
    rates = [each.seconds / each.steps for each in _intervals(lines) if each.steps and not each.has_evaluation]
    return median(rates) if rates and median(rates) > 0 else None


def seconds_trained(lines: Sequence[JsonObject], step: float) -> float:
    """Return the time of training between the first and the last line of the log, without interruptions.

    Args:
        step: seconds per step; an interrupted interval counts as its steps at this rate.
    """
    training = [(each.steps * step, each.seconds) for each in _intervals(lines) if not each.has_evaluation]
    return sum(seconds if seconds <= PAUSE * usual else usual for usual, seconds in training)


def seconds_evaluated(lines: Sequence[JsonObject]) -> float:
    """Return the time of all evaluations. An evaluation that was interrupted counts as their median time."""
    times = [each.seconds for each in _intervals(lines) if each.has_evaluation]
    usual = median(times) if times else 0.0
    return sum(seconds if seconds <= PAUSE * usual else usual for seconds in times)


@dataclass(frozen=True)
class _Interval:
    """Interval between two neighbouring lines of a log.

    Attributes:
        has_evaluation: whether the second line holds the metrics of an evaluation.
    """

    steps: int
    seconds: float
    has_evaluation: bool


def _intervals(lines: Sequence[JsonObject]) -> list[_Interval]:
    return [
        _Interval(after["step"] - before["step"], after["time"] - before["time"], "epoch" in after)
        for before, after in pairwise(lines)
    ]
