"""Differences between groups of runs, with confidence intervals that show whether they could be chance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import mean, variance
from typing import TypeAlias

import numpy as np

from backbones.common.files import JsonObject
from backbones.errors import UserError
from tools.experiments.cell_runs import CellRun
from tools.experiments.draws import draws_interval, is_drawn, paired_runs, shared_image_variance
from tools.experiments.folds import fold_count, folds_interval, is_cross_validation, paired_scores
from tools.experiments.groups import Group
from tools.runs import bootstrap
from tools.runs.bootstrap import CONFIDENCE
from tools.runs.folder import RunFolder
from tools.runs.metrics import Metric
from tools.runs.scores import read_score

RESAMPLES = 1000
ONE_FOLD = "one fold does not show how much folds vary"
ONE_DRAW = "one draw, or one seed, does not show how much they vary"
DIFFERENT_IMAGES = "the runs were evaluated on different images or classes"

Interval: TypeAlias = tuple[float, float]  # lower and upper bound, in points


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between two values of one option (the axis), all other options being equal.

    Attributes:
        axis: the option that differs.
        first: name of its first value.
        other: name of its other value.
        rest: names of the values on the other axes.
        metric: key of the compared metric; larger is better.
        scores: metric in percent of each run with the first value, and of each run with the other value.
        images: interval over resamples of the validation images, with the trained models fixed.
        both: interval over images, seeds and draws; None with a single seed.
        lacking: reason why `images` is None; otherwise "".
        folds: number of folds by which the runs are paired; 0 without cross-validation. The scores are then those of
            the folds, and `both` is the interval over them.
        draws: number of draws of the training images by which the runs are paired; 0 if they are not paired by draws.
    """

    axis: str
    first: str
    other: str
    rest: dict[str, str]
    metric: str
    scores: tuple[tuple[float, ...], tuple[float, ...]]
    images: Interval | None
    both: Interval | None
    lacking: str = ""
    folds: int = 0
    draws: int = 0

    @property
    def change(self) -> float:
        """Mean metric with the value `other` minus that with `first`, in points; above 0 if `other` is better."""
        return mean(self.scores[1]) - mean(self.scores[0])

    @property
    def bounds(self) -> Interval | None:
        """Confidence interval of the difference: over images and seeds if available, else over images only."""
        return self.both or self.images

    @property
    def sure(self) -> bool:
        """Whether the confidence interval excludes zero, so that chance hardly explains the difference."""
        return self.bounds is not None and (self.bounds[0] > 0 or self.bounds[1] < 0)

    def statement(self) -> str:
        """Return the difference as a sentence, with its interval and the number of seeds."""
        where = f" ({', '.join(f'{axis} {value}' for axis, value in self.rest.items())})" if self.rest else ""
        counts = [len(scores) for scores in self.scores]
        kind = "paired fold" if self.folds else "run" if self.draws else "seed"
        seeds = " and ".join(map(str, dict.fromkeys(counts))) + f" {kind}{'s' * (max(counts) > 1)}"
        seeds += f" on {self.draws} paired draws" if self.draws else ""
        text = f"{self.axis} {self.other} over {self.first}{where}: {self.change:+.1f} {self.metric}"
        if self.bounds is None:
            return f"{text}, {seeds}; no interval: {self.lacking}"
        low, high = self.bounds
        only = self.lacking or "one seed does not show how much seeds vary"
        of = "" if self.both else f" over images only, because {only}"
        verdict = "" if self.sure else "; not distinguishable"
        return f"{text}, {CONFIDENCE:.0%} interval {low:+.1f} to {high:+.1f}{of}, {seeds}{verdict}"

    def as_json(self) -> JsonObject:
        """Return the fields of the difference as JSON values, for table.json."""
        return {
            **{key: getattr(self, key) for key in ("axis", "first", "other", "rest", "metric", "scores", "change")},
            **{"images": self.images, "images_and_seeds": self.both, "folds": self.folds, "draws": self.draws},
            "distinguishable": self.sure,
            "statement": self.statement(),
        }


def find_differences(groups: Sequence[Group], metric: Metric, *, resamples: int = RESAMPLES) -> list[Difference]:
    """Compare each value of each option with the option's first value, for all combinations of the other options.

    Args:
        groups: groups of one task, all with the same axes.
        metric: a metric that `tools.runs.scores.read_score` computes too.
        resamples: number of resamples of the validation images.
    """
    scores = _ResampledScores(resamples, metric.key)
    result: list[Difference] = []
    for axis in groups[0].values if groups else ():
        # Collect the groups that differ on this axis only.
        families: dict[str, list[Group]] = {}
        for group in groups:
            rest = {name: value for name, value in group.values.items() if name != axis}
            families.setdefault(json.dumps(rest), []).append(group)
        for first, *others in families.values():
            found = (_difference(first, other, axis, metric, scores) for other in others)
            result += [each for each in found if each is not None]
    return _without_constants(result)


@dataclass(frozen=True)
class _ResampledScore:
    """Scores of one run on resamples of its validation images.

    Attributes:
        digest: value that is equal for runs that were evaluated on the same images.
        scores: fractions `[resamples]`.
    """

    digest: object
    scores: np.ndarray


class _ResampledScores:
    """Cache of the runs' scores on resampled images. Runs on the same images get the same resamples."""

    def __init__(self, resamples: int, metric: str) -> None:
        self.resamples, self.metric = resamples, metric
        self._known: dict[str, _ResampledScore | str] = {}

    def of(self, run: CellRun) -> _ResampledScore | str:
        """Return a run's scores on resampled images, or an error message if they cannot be computed."""
        if run.cell.name not in self._known:
            try:
                score = read_score(RunFolder.read(run.folder), self.metric)
                resampled = bootstrap.resampled(score.score, size=score.size, count=self.resamples)
                self._known[run.cell.name] = _ResampledScore(score.digest, resampled)
            except UserError as error:
                self._known[run.cell.name] = str(error)
        return self._known[run.cell.name]


def _difference(first: Group, other: Group, axis: str, metric: Metric, scores: _ResampledScores) -> Difference | None:
    """Compare two groups of runs; None if either has no finished run with the metric."""
    a, b = (_known_percents(metric.fraction(run.results or {}) for run in group.finished) for group in (first, other))
    if not a or not b:
        return None
    if is_cross_validation(first) and is_cross_validation(other):
        return _paired_difference(first, other, axis, metric)
    if is_drawn(first) or is_drawn(other):
        return _drawn_difference(first, other, axis, metric, scores)
    resampled, lacking = _on_same_images(*([scores.of(run) for run in group.finished] for group in (first, other)))
    rest = {name: value for name, value in other.values.items() if name != axis}
    images = _images_interval(resampled)
    both = None if lacking == DIFFERENT_IMAGES else seeds_and_images_interval(a, b, resampled)
    return Difference(axis, first.values[axis], other.values[axis], rest, metric.key, (a, b), images, both, lacking)


def _paired_difference(first: Group, other: Group, axis: str, metric: Metric) -> Difference | None:
    """Compare two groups of a cross-validation by the folds in which both have a finished run; None without any."""
    a, b = paired_scores(first, other, metric)
    if not a:
        return None
    rest = {name: value for name, value in other.values.items() if name != axis}
    values = (first.values[axis], other.values[axis])
    interval = folds_interval([after - before for before, after in zip(a, b, strict=True)], fold_count(first))
    return Difference(axis, *values, rest, metric.key, (a, b), None, interval, lacking=ONE_FOLD, folds=len(a))


def _drawn_difference(
    first: Group, other: Group, axis: str, metric: Metric, scores: _ResampledScores
) -> Difference | None:
    """Compare two groups of runs on repeated draws of the training images."""
    measured = [[r for r in group.finished if metric.fraction(r.results or {}) is not None] for group in (first, other)]
    a, b, draws = paired_runs(*measured)
    resampled, lacking = _on_same_images([scores.of(run) for run in a], [scores.of(run) for run in b])
    percents = [_known_percents(metric.fraction(run.results or {}) for run in runs) for runs in (a, b)]
    both = None
    if lacking != DIFFERENT_IMAGES:
        both = draws_interval(a, b, *map(np.array, percents), resampled=resampled, paired=draws > 0)
    rest = {name: value for name, value in other.values.items() if name != axis}
    values = (first.values[axis], other.values[axis])
    lacking = lacking or ("" if both else ONE_DRAW)
    images = _images_interval(resampled)
    return Difference(axis, *values, rest, metric.key, (percents[0], percents[1]), images, both, lacking, draws=draws)


def _images_interval(resampled: tuple[np.ndarray, np.ndarray] | None) -> Interval | None:
    """Return the interval of the difference over resamples of the images, in points; None if it is not known."""
    if resampled is None:
        return None
    low, high = bootstrap.bounds(100 * (resampled[1].mean(0) - resampled[0].mean(0)))
    return float(low), float(high)  # JSON refuses numpy's numbers


def _on_same_images(
    first: list[_ResampledScore | str], other: list[_ResampledScore | str]
) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
    """Return the scores `[runs, resamples]` of both groups on the same resamples, or None and the reason."""
    known = [each for each in (*first, *other) if not isinstance(each, str)]
    if len(known) < len(first) + len(other):
        return None, next(each for each in (*first, *other) if isinstance(each, str))
    if any(each.digest != known[0].digest for each in known):
        return None, DIFFERENT_IMAGES
    scores = np.array([each.scores for each in known])
    return (scores[: len(first)], scores[len(first) :]), ""


def _known_percents(fractions: Iterable[float | None]) -> tuple[float, ...]:
    return tuple(100 * fraction for fraction in fractions if fraction is not None)


def seeds_and_images_interval(
    a: Sequence[float], b: Sequence[float], resampled: tuple[np.ndarray, np.ndarray] | None
) -> Interval | None:
    """Return Welch's interval of the difference of two means, with the variance of the images that all seeds share.

    A few seeds estimate their own variance badly, and Welch's interval accounts for this by being wide; a bootstrap
    over the seeds would be too narrow. Runs of the same seed have nothing in common except the order of their images,
    so they are not compared in pairs.

    Args:
        a: scores of the first group in percent, one per seed; at least 2, otherwise the interval is None.
        b: scores of the other group.
        resampled: scores of both groups on resamples of the images, as fractions `[seeds, resamples]`; None: unknown.
    """
    if min(len(a), len(b)) < 2:
        return None
    from scipy.stats import t  # slow to import

    # Variances of the two means over the seeds, and of their difference over the images.
    parts = [variance(scores) / len(scores) for scores in (a, b)]
    shared = 0.0 if resampled is None else 100**2 * shared_image_variance(*resampled)
    total, change = sum(parts) + shared, mean(b) - mean(a)
    # Degrees of freedom by Welch and Satterthwaite; the variance over the images counts as known exactly.
    uncertainty = sum(part**2 / (len(scores) - 1) for part, scores in zip(parts, (a, b), strict=True))
    freedom = total**2 / uncertainty if uncertainty else np.inf
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * sqrt(total)
    return change - reach, change + reach


def _without_constants(differences: list[Difference]) -> list[Difference]:
    """Remove from each difference's `rest` the options that never vary, which makes the sentences shorter."""
    names = {name for each in differences for name in each.rest}
    constant = {name for name in names if len({each.rest.get(name) for each in differences}) == 1}
    constant -= {each.axis for each in differences}  # an axis that is compared somewhere does vary
    return [
        replace(each, rest={name: value for name, value in each.rest.items() if name not in constant})
        for each in differences
    ]
