"""Compares runs of cross-validation: each fold has validation images of its own, so runs are paired by fold."""

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


def folds_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """Return the corrected t-interval of the mean difference of paired folds (Nadeau and Bengio 2003, section 3).

    The training images of the folds overlap, so that the differences of the folds are not independent. With k folds
    their variance is multiplied by 1/k + 1/(k - 1) instead of 1/k; the second term is the number of validation images
    divided by that of training images.

    Args:
        a, b: scores of the two groups, one per fold. With fewer than two folds there is no interval.
    """
    count = len(a)
    if count < 2:
        return None
    from scipy.stats import t  # slow to import

    differences = [after - before for before, after in zip(a, b, strict=True)]
    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * sqrt(variance(differences) * (1 / count + 1 / (count - 1)))
    return mean(differences) - reach, mean(differences) + reach
