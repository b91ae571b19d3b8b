"""Average precision, thresholds and F1 of multi-label classifiers by hand, and any split over processes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import classification
from classification.multi_label import (
    LabelSets,
    average_precision,
    best_threshold,
    format_label_sets,
    label_sets_csv,
)

CLASSES = ("sea", "sun", "tree")
LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]]) > 0
SCORES = torch.tensor([[0.9, 0.8, 0.1], [0.4, 0.6, 0.2], [0.6, 0.7, 0.3], [0.1, 0.2, 0.4]])


def filled(**options: object) -> LabelSets:
    metric = LabelSets(CLASSES, **options)
    metric.update(SCORES, {"label": torch.from_numpy(LABELS), "index": torch.arange(4)})
    return metric


def of_classes(results: dict[str, object]) -> dict[str, dict[str, float]]:
    """Metrics of the classes, by metric and then by class."""
    keys = ("AP", "F1", "threshold", "images")
    return {key: {name: entry[key] for name, entry in results["per_class"].items()} for key in keys}


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.5 * 1 + 0.5 * 2 / 3),  # the example of scikit-learn
        ([1, 0], [0.5, 0.5], 0.5),  # equal scores are decided together
        ([1, 1, 0], [0.9, 0.8, 0.1], 1.0),
        ([0, 0], [0.9, 0.8], None),
        ([0, 1, 1], [0.9, 0.5, 0.5], 2 / 3),
    ],
)
def test_average_precision_by_hand(labels: list[int], scores: list[float], expected: float | None):
    found = average_precision(np.array(labels) > 0, np.array(scores))
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_threshold_has_the_highest_f1_and_lies_between_scores():
    labels, scores = np.array([1, 0, 1, 0]) > 0, np.array([0.9, 0.7, 0.6, 0.1])
    # F1 at 0.9: 2/3, at 0.7: 1/2, at 0.6: 4/5, at 0.1: 2/3; halfway from 0.6 to 0.1 is 0.35.
    assert best_threshold(labels, scores) == pytest.approx(0.35)
    assert best_threshold(labels[:1], scores[:1]) == pytest.approx(0.45)  # halfway to 0
    assert best_threshold(~labels & labels, scores) == 0.5
    assert best_threshold(np.array([1, 1]) > 0, np.array([0.5, -1.0])) == 0.25  # an unread image is never predicted


def test_metrics_by_hand():
    results = filled().compute()
    per_class = of_classes(results)
    # sea: scores 0.9 (true), 0.6, 0.4 (true), 0.1: 1/2 * 1 + 1/2 * 2/3 = 5/6.
    # sun: scores 0.8, 0.7 (true), 0.6 (true), 0.2: 1/2 * 1/2 + 1/2 * 2/3 = 7/12. No image has tree.
    assert per_class["AP"] == {"sea": pytest.approx(5 / 6), "sun": pytest.approx(7 / 12), "tree": None}
    assert results["mAP"] == pytest.approx((5 / 6 + 7 / 12) / 2)
    # F1 of sea at 0.9: 2/3, 0.6: 1/2, 0.4: 4/5. Of sun at 0.8: 0, 0.7: 1/2, 0.6: 4/5.
    assert per_class["threshold"] == {name: pytest.approx(value) for name, value in zip(CLASSES, (0.25, 0.4, 0.5))}
    assert per_class["F1"] == {"sea": pytest.approx(0.8), "sun": pytest.approx(0.8), "tree": None}
    # Predicted: {sea, sun}, {sea, sun}, {sea, sun}, {}: 4 of 6 are true, of 4. The second and fourth sets are exact.
    assert (results["macro_f1"], results["micro_f1"]) == (pytest.approx(0.8), pytest.approx(8 / 10))
    assert (results["exact_match"], results["images"]) == (0.5, 4)
    assert per_class["images"] == {"sea": 2, "sun": 2, "tree": 0}
    given = filled(thresholds=[0.5, 0.5, 0.5]).compute()
    assert of_classes(given)["threshold"] == dict.fromkeys(CLASSES, 0.5)
    # Predicted: {sea, sun}, {sun}, {sea, sun}, {}. F1 of sea is 1/2, of sun 4/5; two of five are wrong, one is missing.
    assert of_classes(given)["F1"] == {"sea": pytest.approx(0.5), "sun": pytest.approx(0.8), "tree": None}
    assert (given["exact_match"], given["micro_f1"]) == (0.25, pytest.approx(2 * 3 / (5 + 4)))
    assert "mAP           70.83%" in format_label_sets(results) and "sun 58.3%" in format_label_sets(results)


def test_any_number_of_processes_gives_the_same_bytes():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(23, 3, generator=generator), torch.rand(23, 3, generator=generator) < 0.4
    answers = set()
    for world in (1, 2, 3):
        parts = [LabelSets(CLASSES) for _ in range(world)]
        for rank, part in enumerate(parts):
            for chosen in torch.arange(rank, 23, world).split(4):
                part.update(scores[chosen], {"label": labels[chosen], "index": chosen})
        whole = LabelSets(CLASSES)
        whole.merge([part.state() for part in reversed(parts)])
        answers.add(json.dumps(whole.compute()))
    assert len(answers) == 1


def test_images_that_cannot_be_read_count_as_wrong():
    metric = filled(expected=(np.arange(6), np.concatenate([LABELS, [[True, False, False], [False] * 3]])))
    results = metric.compute()
    # A third sea that is never found: 1/3 * 1 + 1/3 * 2/3, and the rest comes last: 1/3 * 3/6.
    assert of_classes(results)["AP"]["sea"] == pytest.approx(1 / 3 + 2 / 9 + 1 / 6)
    assert (results["exact_match"], results["images"]) == (2 / 6, 6)  # also without classes it is not right
    rows = metric.rows()
    text = label_sets_csv(rows, [f"{name}.png" for name in "abcdef"], CLASSES, metric.thresholds(rows))
    lines = text.splitlines()
    assert lines[0] == "image,classes,predicted,sea,sun,tree"
    assert lines[2] == "b.png,sea;sun,sea;sun,0.4,0.6,0.2" and lines[5] == "e.png,sea,,,,"
    assert LabelSets(CLASSES).compute()["images"] == 0


def test_the_loss_is_binary_cross_entropy_of_each_class():
    model = classification.build("resnet20", 2, multi_label=True, class_weights=torch.tensor([3.0, 1.0]))
    logits, labels = torch.tensor([[0.0, 2.0]]), torch.tensor([[True, False]])
    # Class 0: -3 ln sigmoid(0) = 3 ln 2. Class 1: -ln(1 - sigmoid(2)) = ln(1 + e^2). The mean of both.
    expected = (3 * math.log(2) + math.log(1 + math.exp(2))) / 2
    assert model.losses(logits, {"label": labels})["loss_cls"].item() == pytest.approx(expected)
    assert torch.allclose(model.probabilities(logits), torch.tensor([[0.5, 1 / (1 + math.exp(-2))]]))
    assert "class_weights" not in model.state_dict()


def test_weights_of_one_class_an_image_do_not_depend_on_the_split_of_a_batch(tmp_path: Path):
    model = classification.build("resnet20", 2, class_weights=torch.tensor([0.5, 2.0]))
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 1, 1, 0])
    whole = model.losses(logits, {"label": labels})["loss_cls"]
    parts = [model.losses(logits[at], {"label": labels[at]})["loss_cls"] for at in (slice(0, 2), slice(2, 4))]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts) / 2)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert whole.item() == pytest.approx((each * torch.tensor([0.5, 2, 2, 0.5])).mean().item())
