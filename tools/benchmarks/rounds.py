"""Times several implementations in turns, so that anything that slows the machine affects all of them alike.

On a shared machine, times that are measured minutes apart cannot be compared. In each round every implementation runs a
few steps. Ratios are computed within each round; the median over the rounds is reported.
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
class Implementation:
    """One implementation of the work to measure, such as the code of one library.

    Attributes:
        name: unique among the implementations that are measured together.
        prepare: builds everything and returns the step to measure. It can be pickled, for example a partial of a
            module's function, because peak memory is measured in another process (`tools.benchmarks.peak`).
    """

    name: str
    prepare: Callable[[], Step]


def measure(
    implementations: Sequence[Implementation], *, rounds: int, turn: float, title: str = ""
) -> dict[str, list[float]]:
    """Time the implementations in turns; return the seconds per step of each, one value per round.

    Args:
        rounds: number of measured turns of each implementation. One more turn, to warm up, is not measured.
        turn: seconds of one turn; a step that takes longer is a turn by itself.
        title: text beside the progress bar.
    """
    seconds: dict[str, list[float]] = {each.name: [] for each in implementations}
    turns = len(implementations) * (rounds + 1)
    # Write fewer progress lines into a log file than on a terminal.
    pause = 0.2 if sys.stderr.isatty() else 10
    with tqdm(total=turns, desc=title, unit="turn", leave=False, mininterval=pause) as progress:
        # Build and warm up every implementation, and count the steps that fill its turn.
        steps, counts = {}, {}
        for each in implementations:
            steps[each.name] = each.prepare()
            counts[each.name] = warm_up(steps[each.name], turn)
            progress.update()
        # Let the implementations take turns; each round begins with another one.
        for number in range(rounds):
            for name in rotated(list(steps), number):
                seconds[name].append(time_steps(steps[name], counts[name]))
                progress.update()
    return seconds


def warm_up(step: Step, turn: float) -> int:
    """Run a step for about `turn` seconds, at least once; return the number of steps that fill a turn."""
    start = time.perf_counter()
    # The first step chooses kernels and allocates memory, so its time says nothing about later ones.
    time_steps(step, 1)
    left = turn - (time.perf_counter() - start)
    if left <= 0:
        return 1
    return max(1, round(turn / time_steps(step, 1)))


def time_steps(step: Step, count: int) -> float:
    """Run `count` steps in a row and return the mean seconds per step."""
    synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    synchronize()
    return (time.perf_counter() - start) / count


def synchronize() -> None:
    """Wait until the GPU has finished all work, if there is a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Return the names in the order of round `number`: the name that comes first rotates from round to round."""
    start = number % len(names)
    return [*names[start:], *names[:start]]


def rate(seconds: Iterable[float], items: int) -> float:
    """Return items per second: `items` per step, divided by the median step time in seconds over all rounds."""
    return items / median(seconds)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return their time divided by our time, as the median over the rounds. Above 1, ours is faster."""
    return median(their / our for our, their in zip(ours, theirs, strict=True))
