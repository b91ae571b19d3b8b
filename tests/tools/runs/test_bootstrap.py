"""Bootstrap over images: intervals with known standard errors."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import quantile_chance

from tools.evaluation.resampling import resamples
from tools.runs.bootstrap import bounds, interval, resampled


def test_interval_of_a_mean():
    """The mean of 100 coin flips with 30 heads has a standard error of sqrt(.3 x .7 / 100) = .046."""
    values = np.repeat([1.0, 0.0], [30, 70])
    low, high = interval(lambda weights: weights @ values / 100, size=100, count=2000)
    within = quantile_chance(0.046, 2000) + 0.005  # means of 100 flips are a multiple of 0.01
    assert low == pytest.approx(0.3 - 1.96 * 0.046, abs=within)
    assert high == pytest.approx(0.3 + 1.96 * 0.046, abs=within)
    assert interval(lambda weights: 0.0, size=100, count=0) == (None, None)


def test_every_call_draws_the_same_resamples():
    first, again = (np.array(list(resamples(5, 20))) for _ in range(2))
    assert (first == again).all()
    assert (first.sum(axis=1) == 5).all()
    assert len({tuple(weights) for weights in first}) > 10


def test_bounds_of_known_values():
    """The bounds of the numbers 0 to 200 are 5 and 195, with 2.5 percent on each side. NaN values do not count."""
    numbers = np.arange(201.0)
    assert bounds(numbers) == (pytest.approx(5), pytest.approx(195))
    longer = np.concatenate([np.full(100, np.nan), numbers])
    low, high = bounds(np.stack([longer, np.full(301, np.nan), longer / 10], axis=1))
    assert low == pytest.approx([5, np.nan, 0.5], nan_ok=True)
    assert high == pytest.approx([195, np.nan, 19.5], nan_ok=True)


def test_a_resample_has_a_weight_for_each_image():
    weights = np.array(list(resamples(5, 20)))
    assert weights.shape == (20, 5)
    assert (weights.sum(axis=0) > 0).all()  # each image is drawn
    assert resampled(lambda each: each[:2], size=5, count=20).tolist() == weights[:, :2].tolist()
    assert interval(lambda each: 0.0, size=0, count=9) == (None, None)
