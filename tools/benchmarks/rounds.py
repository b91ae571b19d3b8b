"""Contestants measured in alternating rounds, so that what slows the machine down slows all of them alike.

Times of one contestant minutes apart say little on a shared machine. In each round every contestant makes a few steps,
one after the other; a ratio is taken within each round, and the median over the rounds reported.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from tqdm import tqdm

Step = Callable[[], object]


@dataclass(frozen=True)
class Contestant:
    """One way to do the work that is measured.

    Attributes:
        name: distinct among those measured together.
        prepare: builds everything and returns the step to time; a partial of a module's function, so that it can be
            sent to a fresh process (`tools.benchmark_peak`).
    """

    name: str
    prepare: Callable[[], Step]


def measure(contestants: Sequence[Contestant], *, rounds: int, turn: float, title: str = "") -> dict[str, list[float]]:
    """Seconds per step of each contestant, one value a round.

    Args:
        rounds: how often each contestant has its turn, besides an uncounted one to warm up.
        turn: seconds that a turn should last; steps that are longer make turns of one step.
        title: shown beside the progress bar.
    """
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    turns = len(contestants) * (rounds + 1)
    # A log file wants few lines.
    pause = 0.2 if sys.stderr.isatty() else 10
    with tqdm(total=turns, desc=title, unit="turn", leave=False, mininterval=pause) as progress:
        steps, counts = {}, {}
        for contestant in contestants:
            steps[contestant.name] = contestant.prepare()
            counts[contestant.name] = warm_up(steps[contestant.name], turn)
            progress.update()
        for number in range(rounds):
            for name in rotated(list(steps), number):
                seconds[name].append(time_steps(steps[name], counts[name]))
                progress.update()
    return seconds


def warm_up(step: Step, turn: float) -> int:
    """Run a step for about `turn` seconds, at least once; returns how many steps fill a turn."""
    start = time.perf_counter()
    time_steps(step, 1)  # chooses kernels, allocates: no measure of the steps to come
    left = turn - (time.perf_counter() - start)
    if left <= 0:
        return 1
    return max(1, round(turn / time_steps(step, 1)))


def time_steps(step: Step, count: int) -> float:
    """Mean seconds of `count` steps in a row."""
    finish()
    start = time.perf_counter()
    for _ in range(count):
        step()
    finish()
    return (time.perf_counter() - start) / count


def finish() -> None:
    """Wait for the device, which works behind the program's back."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rotated(names: Sequence[str], number: int) -> list[str]:
    """The names in the order of a round: each round begins with the next one."""
    start = number % len(names)
    return [*names[start:], *names[:start]]


def rate(seconds: Iterable[float], items: int) -> float:
    """Items a second from the seconds per step of the rounds: their median."""
    return items / median(seconds)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast ours is: the median of the rounds' own ratios, above 1 where ours is faster."""
    return median(their / our for our, their in zip(ours, theirs, strict=True))
