"""LogME equals its dense form and has its paper's invariants; probes and agreement by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tools.ranking import Samples, knn_hits, logme, probe_hits, weighted_tau
from tools.ranking.samples import bootstrap, evidence, jackknife, scores

RANDOM = np.random.default_rng(0)


def dense(features: np.ndarray, column: np.ndarray) -> float:
    """Maximise the log density of N(0, F F^T / alpha + I / beta), the marginal distribution of y, over a grid."""
    size = len(features)
    alpha, beta = (each.reshape(-1, 1, 1) for each in np.meshgrid(np.logspace(-3, 4, 71), np.logspace(-2, 3, 51)))
    covariance = features @ features.T / alpha + np.eye(size) / beta
    distance = (column * np.linalg.solve(covariance, np.tile(column[:, None], (len(covariance), 1, 1)))[..., 0]).sum(1)
    density = -0.5 * (distance + np.linalg.slogdet(covariance).logabsdet + size * np.log(2 * np.pi))
    return float(density.max()) / size


@pytest.mark.parametrize("width", [3, 20])  # fewer and more columns than rows
def test_logme_is_the_maximum_of_the_dense_evidence(width: int):
    features = RANDOM.normal(size=(12, width))
    column = features[:, :2].sum(axis=1) + 0.5 * RANDOM.normal(size=12)
    found, expected = logme(features, column[:, None]), dense(features, column)
    # The grid's steps are 1.26 in alpha and beta; at a maximum of width w in ln(alpha) half a step costs
    # (0.115 / w)^2 / 2, which is below 0.01 per parameter for the widths of a few tenths of a sample of 12.
    assert expected - 1e-9 <= found <= expected + 0.02


def test_duplicated_and_zero_features_change_nothing():
    features, labels = RANDOM.normal(size=(40, 6)), RANDOM.integers(3, size=40)
    expected = logme(features, labels)
    assert logme(np.concatenate([features, features], axis=1), labels) == pytest.approx(expected, abs=1e-4)
    assert logme(np.concatenate([features, np.zeros((40, 5))], axis=1), labels) == pytest.approx(expected, abs=1e-4)
    assert logme(1000 * features, labels) == pytest.approx(expected, abs=1e-4)


def test_labels_are_columns_and_better_features_score_higher():
    labels = np.arange(60) % 3
    one_hot = np.eye(3)[labels]
    noise = RANDOM.normal(size=(60, 3))
    assert logme(noise, labels) == pytest.approx(logme(noise, one_hot))
    scored = [logme(one_hot + spread * noise, labels) for spread in (0.1, 0.5, 2)]
    assert scored == sorted(scored, reverse=True)


@pytest.mark.parametrize("features", [np.zeros((0, 3)), np.full((4, 3), np.nan), np.zeros((3, 3))])
def test_wrong_features_are_refused(features: np.ndarray):
    with pytest.raises(ValueError, match="logme"):
        logme(features, np.zeros(4, int)[: len(features) + 1])


def test_constant_targets_and_features_stay_finite():
    assert np.isfinite(logme(np.zeros((5, 3)), np.zeros(5, int)))
    assert np.isfinite(logme(np.ones((5, 3)), np.arange(5)))


def test_neighbours_of_the_same_image_do_not_vote():
    features = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.2]])
    labels, images = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 2, 3, 4])
    # The last sample is alone in its class; its nearest neighbour has class 0.
    assert knn_hits(features, labels, images, neighbours=1).tolist() == [True, False, True, True, False]
    assert knn_hits(features, labels, np.array([0, 0, 1, 1, 0]), neighbours=1).tolist() == [False] * 5
    assert knn_hits(features, labels, np.zeros(5, int)).tolist() == [False] * 5


def test_a_linear_probe_separates_what_lines_separate():
    labels = np.arange(60) % 3
    features = 5 * np.eye(3)[labels] + 0.1 * RANDOM.normal(size=(60, 3))
    assert probe_hits(features, labels, np.arange(60), seed=0).all()
    assert probe_hits(RANDOM.normal(size=(60, 3)), labels, np.arange(60), seed=0).mean() < 0.7
    # All samples of a class lie in one image, which is held out as a whole: no classifier has seen the class.
    assert not probe_hits(features, labels, labels, seed=0).any()
    assert not probe_hits(features, labels, np.zeros(60, int), seed=0).any()


def test_intervals_hold_the_scores():
    labels = np.arange(80) % 4
    samples = Samples(np.eye(4)[labels] + 0.4 * RANDOM.normal(size=(80, 4)), labels, np.arange(80) // 2)
    found = scores(samples, seed=0)
    assert set(found) == {"logme", "probe", "knn"}
    assert all(each.low <= each.value <= each.high for each in found.values())
    assert found["knn"].value == pytest.approx(knn_hits(samples.features, labels, samples.images).mean())


def test_the_standard_error_of_a_mean_by_the_jackknife():
    """For the mean of 20 images, the jackknife error is the sample deviation over the root of 20."""
    values = RANDOM.normal(size=20)
    samples = Samples(values[:, None], np.zeros(20, int), np.arange(20))
    found = jackknife(samples, lambda each: float(each.features.mean()), seed=0)
    assert (found.high - found.value) / 1.959964 == pytest.approx(values.std(ddof=1) / np.sqrt(20), rel=1e-6)
    assert bootstrap(np.ones(6, bool), np.arange(6), seed=0).low == 1


def test_boxes_add_the_evidence_of_their_deltas():
    labels = np.arange(30) % 2
    features = RANDOM.normal(size=(30, 4))
    deltas = RANDOM.normal(size=(10, 4))
    samples = Samples(features, labels, np.arange(30), deltas, features[:10], np.arange(10))
    assert evidence(samples) == pytest.approx(logme(features, labels) + logme(features[:10], deltas))
    left = samples.without(np.array([0, 29]))
    assert left.deltas is not None and (len(left.features), len(left.deltas)) == (28, 9)


def test_objects_in_a_single_image_give_a_score_without_an_interval():
    features = RANDOM.normal(size=(8, 4))
    samples = Samples(features, np.arange(8) % 2, np.arange(8), features[:2], features[:2], np.array([3, 3]))
    found = jackknife(samples, evidence, seed=0)
    assert np.isfinite(found.value) and np.isnan([found.low, found.high]).all()


def test_weighted_tau_by_hand_and_with_errors():
    assert weighted_tau([1, 2, 3], [10, 20, 30]).tau == pytest.approx(1)
    assert weighted_tau([1, 2, 3], [30, 20, 10]).tau == pytest.approx(-1)
    # The best two are exchanged. Weights of ranks r = 0, 1, 2 are 1 / (r + 1): pairs weigh 1.5, 4/3 and 5/6 of 11/3;
    # the first is discordant: (4/3 + 5/6 - 1.5) / (11/3) = 2/11. The mean over both rankings is the same.
    swapped = weighted_tau([1, 2, 3], [1, 3, 2])
    assert swapped.tau == pytest.approx(2 / 11)
    assert (swapped.low, swapped.high) == (swapped.tau, swapped.tau)
    noisy = weighted_tau([1, 2, 3], [10, 20, 30], result_errors=[20, 20, 20])
    assert noisy.low < 0 < noisy.high == pytest.approx(1)
    with pytest.raises(ValueError, match="at least two"):
        weighted_tau([1], [2])
