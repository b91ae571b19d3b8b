"""Random resamples of the evaluated images, on which all intervals are computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SEED = 0


def resamples(size: int, count: int) -> Iterator[np.ndarray]:
    """Yield `count` random resamples of `size` images, as weights `[size]`: how often each image is drawn.

    Every call yields the same draws, so that metrics and runs on the same images are compared on the same resamples.
    """
    random = np.random.default_rng(SEED)
    for _ in range(count):
        yield np.bincount(random.integers(size, size=size), minlength=size).astype(float)
