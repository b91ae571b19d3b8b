"""Class weights, balanced sampling and balanced metrics, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from classification.balance import balanced_repeats, class_weights
from classification.metrics import TopK, balanced
from tools.processes.batches import REPEAT, TrainBatches

LABELS = np.array([0] * 8 + [1] * 2)


def test_class_weights_by_hand():
    # 10 images of 2 classes: 10 / (2 * 8) and 10 / (2 * 2), as class_weight="balanced" of scikit-learn.
    assert class_weights(LABELS, 2, "balanced").tolist() == pytest.approx([0.625, 2.5])
    # 1 / sqrt(8) and 1 / sqrt(2), scaled to the mean 1: 10 / (8 / sqrt(8) + 2 / sqrt(2)) = 10 / (3 sqrt(2)).
    scale = 10 / (3 * math.sqrt(2))
    assert class_weights(LABELS, 3, "sqrt").tolist() == pytest.approx([scale / math.sqrt(8), scale / math.sqrt(2), 1])
    several = np.array([[1, 0], [1, 0], [1, 1], [0, 0]]) > 0
    assert class_weights(several, 2, "balanced").tolist() == pytest.approx([1 / 3, 3])  # negative over positive images
    assert class_weights(several, 2, "sqrt").tolist() == pytest.approx([math.sqrt(1 / 3), math.sqrt(3)])


def test_balanced_sampling_draws_each_class_equally_often():
    repeats = balanced_repeats(LABELS, 2)
    assert repeats.tolist() == pytest.approx([0.625] * 8 + [2.5] * 2)  # 5 of 8 and 5 of 2 images
    batches = TrainBatches(np.zeros(10, np.int64), 5, seed=3, repeats=repeats)
    uses, pairs = np.zeros(10, int), set()
    for epoch in range(40):
        batches.seek(epoch)
        keys = [key for batch in batches for key in batch]
        drawn = [index for _, index in keys]
        assert len(keys) == 10 and sum(index >= 8 for index in drawn) == 5
        # Uses of an image in one epoch have different keys, which also differ from those of other epochs.
        assert len(set(keys)) == 10 and {key % REPEAT for key, _ in keys} == {epoch}
        uses += np.bincount(drawn, minlength=10)
        pairs |= {(a, b) for a in drawn for b in drawn if a < b < 8}
    assert uses[8:].sum() == 200 and uses[:8].min() > 10
    assert len(pairs) == 28  # all pairs of the eight images occur together


def test_balanced_sampling_depends_on_seed_and_epoch_alone():
    repeats = balanced_repeats(LABELS, 2)

    def keys(seed: int, epoch: int, step: int = 0) -> list[list[tuple[int, int]]]:
        batches = TrainBatches(np.zeros(10, np.int64), 2, seed=seed, repeats=repeats)
        batches.seek(epoch, step)
        return list(batches)

    assert keys(1, 4) == keys(1, 4) and keys(1, 4) != keys(2, 4) and keys(1, 4) != keys(1, 5)
    assert keys(1, 4, step=3) == keys(1, 4)[3:]  # a resumed run draws what it would have drawn


def test_several_classes_follow_the_rarest():
    several = np.array([[1, 0], [1, 0], [1, 1], [0, 0]]) > 0
    # Groups: class 0 alone (2 images), class 1 (1), none (1): 4 / (3 * 2), 4 / 3, 4 / 3.
    assert balanced_repeats(several, 2).tolist() == pytest.approx([2 / 3, 2 / 3, 4 / 3, 4 / 3])


def test_balanced_accuracy_and_macro_f1_by_hand():
    label, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 2])
    # Recalls 3/4 and 1/2; F1 of class 0: 2*3/(4+3), of 1: 2*1/(2+2), of 2 (predicted only): 0. Class 3 does not occur.
    found = balanced(label, predicted, 4)
    assert found == {"balanced_accuracy": pytest.approx(0.625), "macro_f1": pytest.approx((6 / 7 + 0.5 + 0) / 3)}
    unread = balanced(np.array([0, 1]), np.array([0, -1]), 2)
    assert unread == {"balanced_accuracy": 0.5, "macro_f1": 0.5}
    metric = TopK(("a", "b"))
    assert metric.compute()["balanced_accuracy"] is None
    metric.update(torch.tensor([[0.9, 0.1]] * 3), {"label": torch.tensor([0, 0, 1]), "index": torch.arange(3)})
    results = metric.compute()
    assert (results["top1"], results["balanced_accuracy"]) == (pytest.approx(2 / 3), 0.5)
