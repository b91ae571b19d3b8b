"""Bootstrap over images: intervals with known standard errors."""

from __future__ import annotations

import numpy as np
import pytest

from tools.runs.bootstrap import interval, resamples


def test_interval_of_a_mean():
    """Of 100 coin flips with 30 heads: the mean's standard error is sqrt(.3 x .7 / 100) = .046."""
    values = np.repeat([1.0, 0.0], [30, 70])
    low, high = interval(lambda weights: weights @ values / 100, size=100, count=2000)
    assert low == pytest.approx(0.3 - 1.96 * 0.046, abs=0.015) and high == pytest.approx(0.3 + 1.96 * 0.046, abs=0.015)
    assert interval(lambda weights: 0.0, size=100, count=0) == (None, None)


def test_every_call_draws_the_same_resamples():
    first, again = (np.array(list(resamples(5, 20))) for _ in range(2))
    assert (first == again).all()
    assert (first.sum(axis=1) == 5).all()
    assert len({tuple(weights) for weights in first}) > 10
