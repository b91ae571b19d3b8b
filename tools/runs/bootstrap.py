"""Images drawn again with replacement: how far a figure depends on which were chosen for measuring."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

CONFIDENCE = 0.95
SEED = 0


def resamples(size: int, count: int) -> Iterator[np.ndarray]:
    """How often each of `size` images counts `[size]`, `count` times; the same draws for all figures of them."""
    random = np.random.default_rng(SEED)
    for _ in range(count):
        yield np.bincount(random.integers(size, size=size), minlength=size).astype(float)


def bounds(values: np.ndarray) -> tuple[Any, Any]:
    """What holds `CONFIDENCE` of the values `[count, ...]`: low and high `[...]`, NaN where all are."""
    tail = 100 * (1 - CONFIDENCE) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a class that occurs nowhere: NaN it is
        low, high = np.nanpercentile(values, (tail, 100 - tail), axis=0)
    return low, high
