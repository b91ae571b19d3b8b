"""Bootstrap over images: confidence intervals of metrics, computed from random resamples of the validation images."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from tools.evaluation.resampling import resamples

CONFIDENCE = 0.95


def resampled(statistic: Callable[[np.ndarray], float | np.ndarray], *, size: int, count: int) -> np.ndarray:
    """Return the values `[count, ...]` of a statistic on `count` resamples of the images.

    Args:
        statistic: maps image weights `[size]` to a number or an array.
    """
    return np.array([statistic(weights) for weights in resamples(size, count)])


def bounds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds `[...]` of the central 95 % (`CONFIDENCE`) of the values `[count, ...]`.

    NaN values are ignored; a bound is NaN if all of its values are NaN.
    """
    tail = 100 * (1 - CONFIDENCE) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of a column of NaN alone
        low, high = np.nanpercentile(values, (tail, 100 - tail), axis=0)
    return low, high


def interval(
    statistic: Callable[[np.ndarray], float | np.ndarray], *, size: int, count: int
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Return the confidence interval of a statistic over `count` resamples of `size` images.

    Return (None, None) if `count` or `size` is 0.
    """
    return bounds(resampled(statistic, size=size, count=count)) if size and count else (None, None)
