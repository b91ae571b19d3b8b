"""Dry run of a training: times a few steps to show that training works and how long all steps would take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import median
from time import perf_counter

import torch

from backbones.errors import counted
from tools.engine.batches import Batch, Batches
from tools.engine.loop import train_epoch
from tools.engine.state import Training

WARM, TIMED = 2, 5  # steps; the first ones choose algorithms and fill the loader's queue
KEY = "dry_run"  # in the line of JSON


@dataclass(frozen=True)
class Rehearsal:
    """Estimated duration of a training, from a few timed steps.

    Attributes:
        steps: number of optimizer steps in all epochs.
        seconds: median duration of one step in seconds.
    """

    steps: int
    seconds: float

    @property
    def hours(self) -> float:
        """Estimated hours of all training steps, without evaluations."""
        return self.steps * self.seconds / 3600

    def to_json(self) -> str:
        """Return the rehearsal as one line of JSON, for programs that read the output of a dry run."""
        return json.dumps({KEY: asdict(self)})

    @classmethod
    def from_output(cls, text: str) -> Rehearsal | None:
        """Read the last rehearsal that a training command printed as a line of JSON; None if it printed none."""
        lines = [line for line in text.splitlines() if line.startswith(f'{{"{KEY}": ')]
        return cls(**json.loads(lines[-1])[KEY]) if lines else None

    def __str__(self) -> str:
        return (
            f"{counted(self.steps, 'step')} of {self.seconds:.3g} s: about {self.hours:.2g} hours without evaluations"
        )


def rehearse(
    training: Training, loader: Iterable[Batch], *, batches: Batches, epochs: int, clip_norm: float
) -> Rehearsal:
    """Train for a few steps and measure their time.

    Raises:
        NonFiniteError: loss or gradient is not finite in one of the steps.
    """
    batches.seek(0)
    times: list[float] = []
    before = perf_counter()
    steps = train_epoch(training, loader, accumulate=batches.accumulate, clip_norm=clip_norm)
    for _ in islice(steps, WARM + TIMED):
        # A GPU computes in the background: wait for the end of the step.
        if training.precision.device.type == "cuda":
            torch.cuda.synchronize(training.precision.device)
        times.append(perf_counter() - before)
        before = perf_counter()
    # Leave out the warm-up, unless the epoch is shorter than that.
    return Rehearsal(epochs * batches.steps, median(times[WARM:] or times))
