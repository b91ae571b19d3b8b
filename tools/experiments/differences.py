"""Differences between the cells of an experiment, and whether they could be chance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, variance
from typing import Any

import numpy as np

from backbones.errors import UserError
from tools.experiments.groups import Group
from tools.experiments.runs import Run
from tools.runs import bootstrap
from tools.runs.bootstrap import CONFIDENCE
from tools.runs.folder import RunFolder
from tools.runs.metrics import Metric
from tools.runs.scores import ImageScore, read_score

RESAMPLES = 1000
OTHER_IMAGES = "measured on other images or classes, which no seed makes up for"


@dataclass(frozen=True)
class Difference:
    """One value of an axis over another, all other axes alike.

    Attributes:
        axis: the option that differs; first, other: what its two values are called.
        rest: the values of the other axes.
        metric: what is compared, in percent, larger is better.
        scores: of the runs of the first and of the other, in percent.
        images: bounds of the mean over resamples of the validation images, the trainings as they are.
        both: bounds where images and seeds are other ones; None of a single seed.
        lacking: why there are no bounds of images.
    """

    axis: str
    first: str
    other: str
    rest: dict[str, str]
    metric: str
    scores: tuple[tuple[float, ...], tuple[float, ...]]
    images: tuple[float, float] | None
    both: tuple[float, float] | None
    lacking: str = ""

    @property
    def change(self) -> float:
        """Of the means over the seeds, in points."""
        return mean(self.scores[1]) - mean(self.scores[0])

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval to judge by."""
        return self.both or self.images

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.bounds is not None and (self.bounds[0] > 0 or self.bounds[1] < 0)

    def statement(self) -> str:
        """In words."""
        where = f" ({', '.join(f'{axis} {value}' for axis, value in self.rest.items())})" if self.rest else ""
        counts = [len(scores) for scores in self.scores]
        seeds = " and ".join(map(str, dict.fromkeys(counts))) + f" seed{'s' * (max(counts) > 1)}"
        text = f"{self.axis} {self.other} over {self.first}{where}: {self.change:+.1f} {self.metric}"
        if self.bounds is None:
            return f"{text}, {seeds}; no interval: {self.lacking}"
        low, high = self.bounds
        of = "" if self.both else " of the images alone, since one training says nothing of another"
        verdict = "" if self.sure else "; not distinguishable"
        return f"{text}, {CONFIDENCE:.0%} interval {low:+.1f} to {high:+.1f}{of}, {seeds}{verdict}"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **{key: getattr(self, key) for key in ("axis", "first", "other", "rest", "metric", "scores", "change")},
            **{"images": self.images, "images_and_seeds": self.both, "distinguishable": self.sure},
            "statement": self.statement(),
        }


def differences(found: Sequence[Group], metric: Metric, *, resamples: int = RESAMPLES) -> list[Difference]:
    """For each axis, every value over the first one, for all settings of the other axes.

    Args:
        found: groups of one task, all over the same axes.
        metric: the figure that `tools.runs.scores.read_score` gives as well.
    """
    scores = _Scores(resamples)
    result = []
    for axis in found[0].values if found else ():
        families: dict[str, list[Group]] = {}
        for group in found:
            rest = {name: value for name, value in group.values.items() if name != axis}
            families.setdefault(json.dumps(rest), []).append(group)
        for members in families.values():
            made = (_difference(members[0], other, axis, metric, scores) for other in members[1:])
            result += [each for each in made if each is not None]
    return _without_constants(result)


@dataclass(frozen=True)
class _Resampled:
    """What a run scores on resamples of its images: fractions `[resamples]`.

    Attributes:
        digest: of the images, see `ImageScore`.
    """

    digest: Any
    scores: np.ndarray


class _Scores:
    """What each run scores on resamples of the images; runs on the same images see the same resamples."""

    def __init__(self, resamples: int) -> None:
        self.resamples = resamples
        self._known: dict[str, _Resampled | str] = {}

    def of(self, run: Run) -> _Resampled | str:
        """The scores, or why there are none."""
        if run.cell.name not in self._known:
            try:
                scored = read_score(RunFolder.read(run.folder))
                self._known[run.cell.name] = _Resampled(scored.digest, self._resampled(scored))
            except UserError as error:
                self._known[run.cell.name] = str(error)
        return self._known[run.cell.name]

    def _resampled(self, scored: ImageScore) -> np.ndarray:
        return np.array([scored.score(weights) for weights in bootstrap.resamples(scored.size, self.resamples)])


def _difference(first: Group, other: Group, axis: str, metric: Metric, scores: _Scores) -> Difference | None:
    a, b = (_known(metric.fraction(run.results or {}) for run in group.finished) for group in (first, other))
    if not a or not b:
        return None
    shifts, lacking = _shifts(*([scores.of(run) for run in group.finished] for group in (first, other)))
    rest = {name: value for name, value in other.values.items() if name != axis}
    names = first.values[axis], other.values[axis]
    images = None
    if shifts is not None:
        low, high = bootstrap.bounds(shifts)
        images = (float(low), float(high))  # numpy's own are no JSON values
    both = None if lacking == OTHER_IMAGES else _both(a, b, shifts)
    return Difference(axis, *names, rest, metric.key, (a, b), images, both, lacking)


def _shifts(first: list[_Resampled | str], other: list[_Resampled | str]) -> tuple[np.ndarray | None, str]:
    """The difference of the means in points on each resample `[resamples]`, or why there is none."""
    runs = [each for each in (*first, *other) if not isinstance(each, str)]
    if len(runs) < len(first) + len(other):
        return None, next(each for each in (*first, *other) if isinstance(each, str))
    if any(each.digest != runs[0].digest for each in runs):
        return None, OTHER_IMAGES
    a, b = (np.mean([each.scores for each in part], axis=0) for part in (runs[: len(first)], runs[len(first) :]))
    return 100 * (b - a), ""


def _known(fractions: Iterable[float | None]) -> tuple[float, ...]:
    """Return the known fractions in percent."""
    return tuple(100 * fraction for fraction in fractions if fraction is not None)


def _both(a: Sequence[float], b: Sequence[float], shifts: np.ndarray | None) -> tuple[float, float] | None:
    """Welch's interval of two means, with the variance over the images added to that over the seeds.

    Three seeds know their own variance badly, which makes it wide: a bootstrap over them would be too sure. Nets of one
    seed share no more than the order of their images, so that they are not taken for pairs.
    """
    if min(len(a), len(b)) < 2:
        return None
    from scipy.stats import t

    parts = [variance(scores) / len(scores) for scores in (a, b)]
    of_images = 0.0 if shifts is None else float(np.nanvar(shifts))
    total, change = sum(parts) + of_images, mean(b) - mean(a)
    doubt = sum(part**2 / (len(scores) - 1) for part, scores in zip(parts, (a, b), strict=True))
    freedom = total**2 / doubt if doubt else np.inf
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * sqrt(total)
    return change - reach, change + reach


def _without_constants(found: list[Difference]) -> list[Difference]:
    """Leave out what is the same in all, to shorten the sentences."""
    names = {name for each in found for name in each.rest}
    fixed = {name for name in names if len({each.rest.get(name) for each in found}) == 1}
    fixed -= {each.axis for each in found}  # which some other sentence speaks of
    return [
        Difference(**{**vars(each), "rest": {k: v for k, v in each.rest.items() if k not in fixed}}) for each in found
    ]
