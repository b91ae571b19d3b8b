"""The training loss of validation images: its mean, measured so that nothing else notices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SEED = 0  # of what losses sample, such as a detector's anchors: the same in every evaluation


class MeanLosses:
    """Sums of one process's batches, and the means over all processes."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.images = 0

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Add a batch of `images` images, each term their mean."""
        self.images += images
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(loss) * images

    @staticmethod
    def figures(parts: Iterable[MeanLosses]) -> dict[str, float | None]:
        """`val_<term>`, and `val_loss` for their sum; None for what is no number. Empty where nothing was added."""
        parts = list(parts)
        images = sum(part.images for part in parts)
        names = dict.fromkeys(name for part in parts for name in part.sums)
        means = {f"val_{name}": sum(part.sums.get(name, 0.0) for part in parts) / images for name in names}
        if means:
            means = {"val_loss": sum(means.values()), **means}
        return {name: value if math.isfinite(value) else None for name, value in means.items()}


@contextmanager
def same_draws(device: torch.device) -> Iterator[None]:
    """Random numbers from the same seed each time; afterwards the generators go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        yield
