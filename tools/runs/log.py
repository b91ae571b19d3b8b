"""TODO-DOC tools/runs/log.py."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


PAUSE = 10.0  # an interval this many times longer than its like was an interruption


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


def seconds_trained(lines: list[dict[str, Any]], step: float) -> float:
    training = [(steps, seconds) for steps, seconds, evaluated in _intervals(lines) if not evaluated]
    return sum(seconds if seconds <= PAUSE * steps * step else steps * step for steps, seconds in training)


def seconds_evaluated(lines: list[dict[str, Any]]) -> float:
    times = [seconds for _, seconds, evaluated in _intervals(lines) if evaluated]
    usual = median(times) if times else 0.0
    return sum(seconds if seconds <= PAUSE * usual else usual for seconds in times)
