"""The score with the highest F1, its interval, and temperature scaling, by hand and on real matches."""

from __future__ import annotations

import numpy as np
import pytest

from tools.evaluation.evaluator import CocoEvaluator
from tools.evaluation.thresholds import ScoredMatches, calibration, limits_of, scaled, temperature


def matches(*rows: tuple[float, bool, int], objects: tuple[int, ...]) -> ScoredMatches:
    scores, correct, images = (np.array(part) for part in zip(*rows))
    return ScoredMatches(scores.astype(float), correct.astype(bool), images.astype(int), np.array(objects, float))


FOUR = ((0.9, True, 0), (0.8, False, 1), (0.7, True, 1), (0.4, False, 0))


def test_f1_by_hand():
    """Three objects. After 1 detection 2*1/(1+3), after 2 2*1/(2+3), after 3 2*2/(3+3), after 4 2*2/(4+3)."""
    some = matches(*FOUR, objects=(1, 2))
    assert some.f1().tolist() == [2 / 4, 2 / 5, 4 / 6, 4 / 7]
    assert some.best() == (pytest.approx(0.55), 4 / 6)  # midway between 0.7 and 0.4
    assert some.at(np.array([0.95, 0.9, 0.75, 0.5, 0.1])).tolist() == [0, 2 / 4, 2 / 5, 4 / 6, 4 / 7]


def test_an_image_counts_as_often_as_it_is_drawn():
    """The second image three times: 6 objects; after three detections 3 found of 4 ... 2*3/(6+6)."""
    some = matches(*FOUR, objects=(1, 2))
    assert some.f1(np.array([0.0, 3.0])).tolist() == [0, 0, 2 * 3 / 12, 2 * 3 / 12]


def test_equal_scores_stay_together():
    """The correct one of two detections of 0.8 cannot be kept alone."""
    some = matches((0.9, True, 0), (0.8, True, 0), (0.8, False, 0), objects=(2,))
    assert some.best() == (pytest.approx(0.8, rel=1e-5), 4 / 5)
    assert some.best()[0] < 0.8


def test_without_a_correct_detection_there_is_no_best_score():
    assert matches((0.9, False, 0), objects=(2,)).best() is None


def test_classes_with_few_objects_use_the_common_limit():
    best = {"score": 0.5, "per_class": {"a": {"score": 0.3}, "b": {"score": 0.8}, "c": None}}
    assert limits_of(best, {"a": 10, "b": 9, "c": 50}) == {"a": 0.3, "b": 0.5, "c": 0.5}


def test_scores_that_are_too_high_are_cooled():
    """Logits that are twice those of the true probabilities: temperature 2 gives them back."""
    random = np.random.default_rng(0)
    true = random.uniform(0.05, 0.95, 20_000)
    correct = random.uniform(size=len(true)) < true
    high = scaled(true, 0.5)
    found = temperature(high, correct)
    assert found == pytest.approx(2, abs=0.2)  # the standard error of 20,000 draws is about 0.03
    result = calibration(high, correct)
    assert result["temperature"] == found and result["ece_scaled"] < 0.03 < 0.05 < result["ece"]
    assert calibration(np.zeros(0), np.zeros(0, bool)) == {"temperature": None, "ece": None, "ece_scaled": None}


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_the_matches_of_an_evaluation(engine: str):
    """Two images, two classes: a hit, a wrong class, a hit, one on a crowd, which does not count."""
    box, far = [10, 10, 20, 20], [60, 60, 20, 20]
    truth = {
        "images": [{"id": 3, "width": 100, "height": 100}, {"id": 8, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 8, "category_id": 5, "bbox": box, "area": 400, "iscrowd": 0},
            {"id": 3, "image_id": 8, "category_id": 5, "bbox": far, "area": 400, "iscrowd": 1},
        ],
    }
    rows = [(3, 1, box, 0.9), (3, 5, box, 0.8), (8, 5, box, 0.7), (8, 5, far, 0.6)]
    evaluator = CocoEvaluator(truth, engine=engine)
    records = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]
    evaluator.load(records)
    found = evaluator.matched()
    assert found.whole.scores.tolist() == [0.9, 0.8, 0.7] and found.whole.correct.tolist() == [True, False, True]
    assert found.whole.objects.tolist() == [1, 1] and found.objects() == {"cat": 1, "dog": 1}
    best = found.best_scores(20)
    assert best["f1"] == 4 / 5 and best["per_class"]["cat"]["f1"] == 1 and best["per_class"]["dog"]["f1"] == 2 / 3
    assert 0 < best["low"] <= best["score"] <= best["high"] < 1
    evaluator.load([])
    assert evaluator.matched() is None
