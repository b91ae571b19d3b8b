"""Agreement of a ranking with the results of trained models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 1000


@dataclass(frozen=True)
class Agreement:
    """Weighted Kendall tau of two rankings, from -1 (reversed) to 1 (equal), with its 95 % interval.

    All three are NaN if all models have the same score, or the same result.

    Attributes:
        pairs: number of ranked models that both sides have.
        left_out: number of results that do not count, because not all models have results on the same data.
    """

    tau: float
    low: float
    high: float
    pairs: int
    left_out: int = 0


def weighted_tau(
    scores: Sequence[float],
    results: Sequence[float],
    *,
    score_errors: Sequence[float] | None = None,
    result_errors: Sequence[float] | None = None,
    seed: int = 0,
) -> Agreement:
    """Return the weighted Kendall tau between scores before training and results after it.

    Pairs of good models weigh more than pairs of bad ones, as in the comparisons of LogME (hyperbolic weights; Vigna
    2015). The interval is that of `DRAWS` draws of both sides with the given standard errors, so it covers the noise of
    measurement, not the choice of models.

    Args:
        scores: score of each model; higher is better.
        results: result of each model; higher is better.
        score_errors, result_errors: standard errors; None for 0.

    Raises:
        ValueError: there are fewer than two models, or the lengths differ.
    """
    if len(scores) != len(results) or len(scores) < 2:
        raise ValueError(f"weighted_tau: {len(scores)} scores and {len(results)} results; give at least two of each")
    from scipy.stats import weightedtau  # slow to import

    x, y = np.asarray(scores, dtype=float), np.asarray(results, dtype=float)
    widths = [
        np.zeros(len(x)) if e is None else np.nan_to_num(np.asarray(e, float)) for e in (score_errors, result_errors)
    ]
    tau = float(weightedtau(x, y).statistic)
    if np.isnan(tau) or not np.any(widths):  # there is no order, or all draws are equal
        return Agreement(tau, tau, tau, len(x))
    random = np.random.default_rng(seed)
    noise = random.standard_normal((DRAWS, 2, len(x))) * np.stack(widths)
    drawn = np.array([weightedtau(x + one, y + other).statistic for one, other in noise])
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Agreement(tau, float(low), float(high), len(x))
