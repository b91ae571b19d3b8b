"""Options that all benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import require


@dataclass
class Timing:
    """How long to measure, and where the figures go.

    Args:
        output: folder for table.md, results.json and chart.png.
        rounds: turns of each contestant; figures are medians over them.
        turn: seconds that a turn should last; a step that is longer makes a turn of its own.
        threads: CPU threads; absent: one per core.
    """

    output: str
    rounds: int = 5
    turn: float = 0.4
    threads: int | None = None

    def __post_init__(self) -> None:
        require(self.rounds > 0, "rounds", self.rounds, "must be above 0")
        require(self.turn >= 0, "turn", self.turn, "must be 0 or above")
        require(self.threads is None or self.threads > 0, "threads", self.threads, "must be above 0")


@dataclass
class Measuring(Timing):
    """How long to measure, and where the figures go.

    Args:
        output: folder for table.md, results.json and chart.png.
        rounds: turns of each contestant; figures are medians over them.
        turn: seconds that a turn should last; a step that is longer makes a turn of its own.
        threads: CPU threads; absent: one per core.
        memory: measure peak memory as well, in a fresh process for each contestant.
    """

    memory: bool = True
