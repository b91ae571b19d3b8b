"""Top-1 and top-5 by hand: ties, NaN, few classes, absent ones, and any split over processes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from classification.metrics import TopK, format_table, predictions_csv

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


def targets(labels: list[int], first: int = 0) -> dict[str, Tensor]:
    return {"label": torch.tensor(labels), "index": torch.arange(first, first + len(labels))}


def measured(probabilities: list[list[float]], labels: list[int], classes: tuple[str, ...] = CLASSES) -> TopK:
    metric = TopK(classes)
    metric.update(torch.tensor(probabilities), targets(labels))
    return metric


def test_accuracies_by_hand():
    falling = [0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02]
    metric = measured([falling] * 4, [0, 1, 4, 5])  # ranks 0, 1, 4, 5
    results = metric.compute()
    assert (results["top1"], results["top5"], results["images"]) == (0.25, 0.75, 4)
    assert results["nll"] == pytest.approx(-sum(map(math.log, (0.4, 0.2, 0.08, 0.05))) / 4)
    assert results["per_class"]["ant"] == {"recall": 1, "images": 1}
    assert [entry["recall"] for entry in results["per_class"].values()] == [1, 0, None, None, 0, 0, None]
    rows = metric.rows()
    assert rows["rank"].tolist() == [0, 1, 4, 5]
    assert rows["predicted"].tolist() == [0] * 4
    assert rows["confidence"].tolist() == pytest.approx([0.4] * 4)


def test_of_equals_the_first_counts_and_nan_against_the_net():
    constant, nan = [1 / 7] * 7, math.nan
    results = measured([constant, [nan] * 7, [nan, 0.9, *[0.0] * 5]], [3, 0, 1]).compute()
    assert (results["top1"], results["top5"]) == (0, 1 / 3)  # of seven equals the fourth has rank 3; NaN has the last
    assert results["nll"] is None
    assert "NaN" not in json.dumps(results)


def test_a_certain_mistake_costs_no_infinity():
    assert measured([[1.0, 0.0]], [1], ("a", "b")).compute()["nll"] == pytest.approx(-math.log(1e-12))


@pytest.mark.parametrize(("count", "top5"), [(2, None), (5, None), (6, 1.0)])
def test_top5_needs_more_than_five_classes(count: int, top5: float | None):
    results = measured([[1.0] + [0.0] * (count - 1)], [0], CLASSES[:count]).compute()
    assert (results["top1"], results["top5"]) == (1.0, top5)


def test_any_number_of_processes_gives_the_same_bytes():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(23, 7, generator=generator).softmax(1), torch.arange(23) % 7
    answers = set()
    for world in (1, 2, 3):
        parts = [TopK(CLASSES) for _ in range(world)]
        for rank, part in enumerate(parts):
            for chosen in torch.arange(rank, 23, world).split(4):
                part.update(scores[chosen], {"label": labels[chosen], "index": chosen})
        whole = TopK(CLASSES)
        whole.merge([part.state() for part in reversed(parts)])
        rows = {name: values.tobytes() for name, values in whole.rows().items()}
        answers.add((json.dumps(whole.compute()), tuple(rows.items())))
    assert len(answers) == 1


def test_half_precision_is_taken():
    metric = TopK(("a", "b"))
    metric.update(torch.tensor([[0.25, 0.75]], dtype=torch.bfloat16), targets([1]))
    assert metric.compute()["nll"] == pytest.approx(-math.log(0.75))


def test_no_images_give_no_numbers():
    results = TopK(CLASSES).compute()
    assert (results["top1"], results["top5"], results["nll"], results["images"]) == (None, None, None, 0)
    assert all(entry == {"recall": None, "images": 0} for entry in results["per_class"].values())
    assert format_table(results).startswith("0 images")


def test_prefix_names_the_figures_of_training_images():
    metric = TopK(CLASSES, prefix="train_")
    metric.update(torch.eye(7), targets(list(range(7))))
    assert metric.compute() == {
        "train_top1": 1.0,
        "train_top5": 1.0,
        "train_nll": 0,
        "train_images": 7,
        "train_balanced_accuracy": 1.0,
        "train_macro_f1": 1.0,
    }


def test_table_shows_errors_and_the_hardest_classes():
    results = measured(torch.eye(7)[[0, 0, 2, 3]].tolist(), [0, 1, 2, 3]).compute()
    lines = format_table(results).splitlines()
    assert lines[0] == "4 images"
    assert lines[1].split() == ["top1", "75.00%", "error", "25.00%"]
    # The missed class comes first among the six that have the second score: rank 1.
    assert lines[2].split() == ["top5", "100.00%", "error", "0.00%"]
    assert lines[3] == "hardest classes: bee 0.0%, ant 100.0%, cat 100.0%, dog 100.0%"


def test_top1_is_what_argmax_says_of_scores_with_few_bits():
    """bf16 has eight bits: of 200 scores around one, many are equal to the largest."""
    scores = (1 + torch.rand(500, 200, generator=torch.Generator().manual_seed(0))).bfloat16()
    labels = scores.argmax(1).clone()
    labels[::2] = (labels[::2] + 1) % 200
    evaluator = TopK([str(i) for i in range(200)])
    evaluator.update(scores, {"label": labels, "index": torch.arange(500)})
    rows = evaluator.rows()
    right = float((rows["predicted"] == rows["label"]).mean())
    assert evaluator.compute()["top1"] == right == 0.5


def test_images_without_a_prediction_count_as_wrong():
    metric = TopK(CLASSES, expected=(np.array([0, 1, 2]), np.array([1, 0, 2])))
    metric.update(torch.tensor([[0.25, 0.75, 0, 0, 0, 0, 0]]), targets([1]))
    results = metric.compute()
    assert (results["top1"], results["top5"], results["images"]) == (1 / 3, 1 / 3, 3)
    assert results["nll"] == pytest.approx(-math.log(0.75))  # of the image that was read
    assert [results["per_class"][name]["recall"] for name in ("ant", "bee", "cat", "dog")] == [0, 1, 0, None]
    assert metric.rows()["predicted"].tolist() == [1, -1, -1]
    # -log(0.75) = 0.2877
    assert predictions_csv(metric.rows(), ["x", "y", "z"], CLASSES).splitlines() == [
        "image,class,predicted,confidence,rank,loss",
        "x,bee,bee,0.7500,0,0.2877",
        "y,ant,,0.0000,7,",
        "z,cat,,0.0000,7,",
    ]


def test_the_first_class_has_a_name_among_the_predictions():
    # -log(0.75) = 0.2877
    text = predictions_csv(measured([[0.75, 0.25, 0, 0, 0, 0, 0]], [0]).rows(), ["x"], CLASSES)
    assert text.splitlines()[1] == "x,ant,ant,0.7500,0,0.2877"


def test_accuracy_among_the_classes_with_images():
    """Among a and c, the first two answers are right and the third is wrong; an image that was not read is wrong."""
    metric = TopK(("a", "b", "c"), present=np.array([0, 2]), expected=(np.arange(4), np.array([2, 0, 0, 2])))
    assert metric.rows()["rank_present"].tolist() == [3] * 4
    metric.update(torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.5, 0.1], [0.1, 0.2, 0.7]]), targets([2, 0, 0]))
    results = metric.compute()
    assert (results["top1"], results["top1_present"], results["classes_present"]) == (0, 0.5, 2)
    assert format_table(results).splitlines()[2] == "top1   50.00%   among the 2 classes with images"
    assert "top1_present" not in TopK(("a", "b"), present=np.array([0, 1])).compute()
    assert TopK(("a", "b"), present=np.array([1])).compute()["top1_present"] is None


def test_five_hardest_classes_are_shown():
    results = measured(torch.eye(7)[[0, 1, 2, 3, 4, 5, 0]].tolist(), list(range(7))).compute()
    expected = "hardest classes: gnu 0.0%, ant 100.0%, bee 100.0%, cat 100.0%, dog 100.0%"
    assert format_table(results).splitlines()[-2] == expected
