"""A few steps of a training that leaves nothing behind: whether it runs, and how long all of it would take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any

import torch

from tools.engine.loop import Batches, train_epoch
from tools.engine.state import Training

WARM, TIMED = 2, 5  # steps; the first ones choose algorithms and fill the loader's queue


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps tell of a training.

    Attributes:
        steps: optimizer steps of all epochs.
        seconds: of one step, the median.
    """

    steps: int
    seconds: float

    @property
    def hours(self) -> float:
        """Of the steps, without the evaluations."""
        return self.steps * self.seconds / 3600

    @classmethod
    def read(cls, text: str) -> Rehearsal:
        """What a script printed of it, the last one in a text."""
        steps, seconds = re.findall(r"([\d,]+) steps of (\S+) s:", text)[-1]
        return cls(int(steps.replace(",", "")), float(seconds))

    def __str__(self) -> str:
        return f"{self.steps:,} steps of {self.seconds:.3g} s: about {self.hours:.2g} hours, evaluations aside"


def rehearse(training: Training, loader: Any, *, batches: Batches, epochs: int, clip_norm: float) -> Rehearsal:
    """Make a few steps and time them.

    Raises:
        NonFiniteLossError: where the loss is not finite so soon.
    """
    batches.seek(0)
    times: list[float] = []
    before = perf_counter()
    steps = train_epoch(training, loader, accumulate=batches.accumulate, clip_norm=clip_norm)
    for _ in islice(steps, WARM + TIMED):
        if training.precision.device.type == "cuda":
            torch.cuda.synchronize(training.precision.device)
        times.append(perf_counter() - before)
        before = perf_counter()
    return Rehearsal(epochs * batches.steps, median(times[WARM:] or times))
