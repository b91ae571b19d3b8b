"""Labelled features of one backbone, and the scores that a ranking computes from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from tools.ranking.logme import logme
from tools.ranking.probes import knn_hits, probe_hits

GROUPS = 20  # of images; each is left out once for the standard error of LogME
RESAMPLES = 1000  # of images, for the intervals of k-NN and linear probe
NORMAL = NormalDist().inv_cdf(0.975)  # half the width of a 95 % interval in standard errors


@dataclass(frozen=True)
class Samples:
    """Labelled features of one backbone.

    Attributes:
        features: `[N, D]` float32.
        labels: class numbers `[N]`; 0 is the background of detection.
        images: number of the image of each sample `[N]`.
        deltas: box deltas `[M, 4]` to learn by regression; None without boxes.
        delta_features: `[M, D]` features of the boxes of `deltas`.
        delta_images: number of the image of each row of `deltas` `[M]`.
    """

    features: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    deltas: np.ndarray | None = None
    delta_features: np.ndarray | None = None
    delta_images: np.ndarray | None = None

    def without(self, images: np.ndarray) -> Samples:
        """Return the samples of all other images."""
        keep = ~np.isin(self.images, images)
        left = replace(self, features=self.features[keep], labels=self.labels[keep], images=self.images[keep])
        if self.deltas is None or self.delta_features is None or self.delta_images is None:
            return left
        keep = ~np.isin(self.delta_images, images)
        return replace(
            left,
            deltas=self.deltas[keep],
            delta_features=self.delta_features[keep],
            delta_images=self.delta_images[keep],
        )


@dataclass(frozen=True)
class Estimate:
    """A score and its 95 % interval over the images."""

    value: float
    low: float
    high: float


def evidence(samples: Samples) -> float:
    """Return LogME of the labels, plus LogME of the box deltas if there are boxes.

    The sum is the log evidence of both targets per sample, as a detector learns a class and four deltas for each RoI.
    It is NaN without samples or, with boxes, without deltas.
    """
    if not len(samples.labels) or (samples.deltas is not None and not len(samples.deltas)):
        return float("nan")
    score = logme(samples.features, samples.labels)
    if samples.deltas is None or samples.delta_features is None:
        return score
    return score + logme(samples.delta_features, samples.deltas)


def scores(samples: Samples, *, seed: int) -> dict[str, Estimate]:
    """Return the scores `logme`, `probe` and `knn` with their intervals.

    `probe` and `knn` are accuracies in 0..1; their intervals come from resamples of the images (percentile bootstrap).
    The interval of `logme` comes from leaving out twentieths of the images (delete-group jackknife): a resample holds
    images twice, and duplicates raise the evidence.
    """
    of_probe = probe_hits(samples.features, samples.labels, samples.images, seed=seed)
    of_knn = knn_hits(samples.features, samples.labels, samples.images)
    return {
        "logme": jackknife(samples, evidence, seed=seed),
        "probe": bootstrap(of_probe, samples.images, seed=seed),
        "knn": bootstrap(of_knn, samples.images, seed=seed),
    }


def jackknife(samples: Samples, score: Callable[[Samples], float], *, seed: int) -> Estimate:
    """Return a score of all samples with a normal interval from the scores without each group of images.

    The interval is NaN if there is one group, or if all labelled boxes lie in one group.
    """
    value = score(samples)
    parts = np.array([score(samples.without(group)) for group in _groups(samples.images, seed)])
    if len(parts) < 2:
        return Estimate(value, float("nan"), float("nan"))
    error = float(np.sqrt((len(parts) - 1) / len(parts) * ((parts - parts.mean()) ** 2).sum()))
    return Estimate(value, value - NORMAL * error, value + NORMAL * error)


def bootstrap(hits: np.ndarray, images: np.ndarray, *, seed: int) -> Estimate:
    """Return the mean of hits `[N]` with a percentile interval over resamples of the images."""
    _, numbers = np.unique(images, return_inverse=True)
    right, total = np.bincount(numbers, weights=hits), np.bincount(numbers).astype(float)
    chosen = np.random.default_rng(seed).integers(len(total), size=(RESAMPLES, len(total)))
    means = right[chosen].sum(axis=1) / total[chosen].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(hits.mean()), float(low), float(high))


def _groups(images: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield at most `GROUPS` random groups of images of nearly equal size."""
    distinct = np.random.default_rng(seed).permutation(np.unique(images))
    if len(distinct) > 1:
        yield from np.array_split(distinct, min(GROUPS, len(distinct)))
