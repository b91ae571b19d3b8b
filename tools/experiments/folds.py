"""Averages runs of cross-validation over their folds, and compares them.

Each fold has validation images of its own, so two groups of runs are paired by fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import mean, variance

from tools.experiments.groups import Group
from tools.experiments.plan import FOLD
from tools.runs.bootstrap import CONFIDENCE
from tools.runs.metrics import Metric


def is_cross_validation(group: Group) -> bool:
    """Return whether the runs of a group validate more than one fold."""
    return len({run.config.get(FOLD) for run in group.runs if run.config.get("folds")}) > 1


def fold_count(group: Group) -> int:
    """Return the number of folds into which the runs of a group divide their data, run or not."""
    return max(int(run.config.get("folds") or 0) for run in group.runs)


def paired_scores(first: Group, other: Group, metric: Metric) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the scores of two groups in percent, one for each fold in which both have a finished run.

    The score of a fold is the mean over its seeds.
    """
    a, b = (_scores_by_fold(group, metric) for group in (first, other))
    folds = sorted(a.keys() & b.keys())
    return tuple(mean(a[fold]) for fold in folds), tuple(mean(b[fold]) for fold in folds)


def _scores_by_fold(group: Group, metric: Metric) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for run in group.finished:
        fraction = metric.fraction(run.results or {})
        if fraction is not None:
            found.setdefault(int(run.config[FOLD]), []).append(100 * fraction)
    return found


def describe_folds(group: Group, metric: Metric) -> str | None:
    """Return the mean of a metric over the folds of a group as a sentence, with its interval; None without folds."""
    if not is_cross_validation(group):
        return None
    scores, folds = [mean(values) for values in _scores_by_fold(group, metric).values()], fold_count(group)
    bounds = folds_interval(scores, folds)
    if bounds is None:
        return None
    where = f" ({', '.join(f'{axis} {value}' for axis, value in group.values.items())})" if group.values else ""
    low, high = bounds
    count = f"{folds}" if len(scores) == folds else f"{len(scores)} of {folds}"
    return (
        f"{metric.key}{where}: {mean(scores):.1f}, {CONFIDENCE:.0%} interval {low:.1f} to {high:.1f} of the mean, "
        f"{count} folds"
    )


def folds_interval(values: Sequence[float], folds: int) -> tuple[float, float] | None:
    """Return the corrected t-interval of the mean of values, one per fold (Nadeau and Bengio 2003, section 3).

    The training images of the folds overlap, so that the values of the folds are not independent. With n values of k
    folds their variance is multiplied by 1/n + 1/(k - 1) instead of 1/n; the second term is the number of validation
    images divided by that of training images.

    Args:
        values: scores of one group, or differences of two paired ones. With fewer than two folds there is no interval.
        folds: number of folds into which the data are divided; above that of the values where runs are not finished.
    """
    count = len(values)
    if count < 2:
        return None
    from scipy.stats import t  # slow to import

    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * sqrt(variance(values) * (1 / count + 1 / (folds - 1)))
    return mean(values) - reach, mean(values) + reach
