"""Pascal VOC's average precision: hand-computed, compared with the development kit's loop, with difficult objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tools.evaluation import CocoEvaluator, format_table
from tools.evaluation.voc import average_precision, voc_figures
from tools.synthetic.coco_results import synthetic_results

BOXES = ([0, 0, 10, 10], [50, 0, 10, 10], [0, 50, 10, 10], [50, 50, 10, 10])


def rows(*records: tuple[int, list[float], float], category: int = 1) -> np.ndarray:
    """Return rows of an image, a box, and a score or whether the object is difficult."""
    return np.array([(image, *box, value, category) for image, box, value in records], float).reshape(-1, 7)


def test_by_hand():
    """Four objects; a hit, a miss, a hit, a miss: precisions 1, 1/2, 2/3, 1/2 at recalls 1/4, 1/4, 2/4, 2/4.

    Eleven points: 1 up to 0.25 (0, 0.1, 0.2), 2/3 up to 0.5 (0.3, 0.4, 0.5), then 0: (3 + 2) / 11. All points:
    1/4 * 1 + 1/4 * 2/3 = 5/12.
    """
    truth = rows(*((1, box, 0) for box in BOXES))
    found = rows((1, BOXES[0], 0.9), (1, [90, 90, 5, 5], 0.8), (1, BOXES[1], 0.7), (2, BOXES[2], 0.6))
    figures = voc_figures(truth, found[::-1], [1])
    assert figures["VOC07"] == pytest.approx(5 / 11, abs=1e-12)
    assert figures["VOC12"] == pytest.approx(5 / 12, abs=1e-12)


@pytest.mark.parametrize(("found", "points"), [(2, 3), (3, 3), (4, 5), (5, 6), (6, 6), (7, 7), (8, 9), (10, 11)])
def test_recall_reaches_the_points_of_the_kits(found: int, points: int):
    """The kits' points are multiples of 0.1 in floating point: 0.3, 0.6 and 0.7 are slightly above 3/10, 6/10, 7/10.

    So 3 of 10 objects without a false detection reach the points 0, 0.1 and 0.2 only, 4 of 10 also 0.3 and 0.4.
    """
    curve = average_precision(np.ones(found), np.arange(1, found + 1) / 10)
    assert curve == {"VOC07": pytest.approx(points / 11), "VOC12": pytest.approx(found / 10)}


def test_half_an_overlap_is_enough_and_a_second_detection_of_an_object_is_a_miss():
    truth = rows((1, [0, 0, 10, 10], 0))
    half = rows((1, [0, 0, 10, 5], 0.9))  # 50 of 100
    assert voc_figures(truth, half, [1])["VOC12"] == 1
    less = rows((1, [0, 0, 10, 4.99], 0.9))
    assert voc_figures(truth, less, [1])["VOC12"] == 0
    twice = rows((1, [0, 0, 10, 9], 0.8), (1, [0, 0, 10, 10], 0.9), (1, [0, 0, 10, 10], 0.7))
    assert voc_figures(truth, twice, [1])["VOC12"] == 1  # false detections after the last hit do not change the metric
    spoilt = np.concatenate([rows((1, [0, 0, 10, 10], 0)), rows((2, [0, 0, 10, 10], 0))])
    twice = np.concatenate([twice, rows((2, [0, 0, 10, 10], 0.1))])
    assert voc_figures(spoilt, twice, [1])["VOC12"] == pytest.approx((1 + 2 / 4) / 2)


@pytest.mark.filterwarnings("error")
def test_detections_that_share_nothing_with_an_object_find_none():
    truth = rows((1, [0, 0, 1, 1], 0), (1, [7, 7, 0, 0], 0))
    assert voc_figures(truth, rows((1, [20, 20, 1, 1], 0.9)), [1])["VOC12"] == 0  # elsewhere on the image
    assert voc_figures(truth, rows((2, [0, 0, 1, 1], 0.9)), [1])["VOC12"] == 0  # on another image
    assert voc_figures(truth, rows((1, [7, 7, 0, 0], 0.9)), [1])["VOC12"] == 0  # boxes without area


def test_difficult_objects_are_neither_found_nor_missed():
    truth = rows((1, BOXES[0], 0), (1, BOXES[1], 1))
    found = rows((1, BOXES[1], 0.9), (1, BOXES[1], 0.8), (1, BOXES[0], 0.7))
    assert voc_figures(truth, found, [1])["VOC12"] == 1
    assert voc_figures(truth[1:], found, [1]) == {
        "VOC07": None, "VOC12": None, "voc_per_class": [{"VOC07": None, "VOC12": None}],
    }  # fmt: skip
    # Only the object with the largest IoU decides. COCO's rule for crowds (overlap / detection) does not apply.
    inside = rows((1, [50, 0, 3, 3], 0.9), (1, BOXES[0], 0.8))
    assert voc_figures(truth, inside, [1])["VOC12"] == pytest.approx(0.5)


def kit(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Compute both metrics like VOCevaldet.m and VOCap.m, line by line; pixels count from 1, and ends are inclusive."""
    objects = [(r[0], r[1] + 1, r[2] + 1, r[1] + r[3], r[2] + r[4], bool(r[5])) for r in truth]
    taken, right, wrong = [False] * len(objects), [], []
    for r in found[np.argsort(-found[:, 5], kind="stable")]:
        box, best, most = (r[1] + 1, r[2] + 1, r[1] + r[3], r[2] + r[4]), None, -np.inf
        for index, (image, *other, _) in enumerate(objects):
            inner = [max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3])]
            width, height = inner[2] - inner[0] + 1, inner[3] - inner[1] + 1
            if image == r[0] and width > 0 and height > 0:
                areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
                overlap = width * height / (sum(areas) - width * height)
                best, most = (index, overlap) if overlap > most else (best, most)
        if most >= 0.5 and objects[best][5]:
            right.append(0), wrong.append(0)
            continue
        hit = most >= 0.5 and not taken[best]
        taken[best or 0] |= hit
        right.append(int(hit)), wrong.append(int(not hit))
    tp, fp = np.cumsum(right), np.cumsum(wrong)
    recall, precision = tp / sum(not o[5] for o in objects), tp / np.maximum(tp + fp, 1)
    eleven = sum(max(precision[recall >= t * 0.1], default=0) for t in range(11)) / 11
    curve, steps = np.concatenate([[0], precision, [0]]), np.concatenate([[0], recall, [1]])
    for index in range(len(curve) - 2, -1, -1):
        curve[index] = max(curve[index], curve[index + 1])
    moves = np.flatnonzero(steps[1:] != steps[:-1]) + 1
    return {"VOC07": eleven, "VOC12": float(((steps[moves] - steps[moves - 1]) * curve[moves]).sum())}


@pytest.fixture(scope="module")
def synthetic() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return 20 images of few classes with crowds, and detections half of which are near an object."""
    truth, found = synthetic_results(20, 1000, seed=1)
    for record in (*truth["annotations"], *found):
        record["category_id"] = record["category_id"] % 3 + 1
    for record in truth["annotations"][::4]:
        record["iscrowd"] = 1
    return {**truth, "categories": truth["categories"][:4]}, found


def test_the_evaluator_equals_the_kit(synthetic):
    data, found = synthetic
    evaluator = CocoEvaluator(data, protocol="voc")
    evaluator.load(found)
    results = evaluator.compute()
    truth = np.array([(r["image_id"], *r["bbox"], r["iscrowd"], r["category_id"]) for r in data["annotations"]])
    detections = np.array([(r["image_id"], *r["bbox"], r["score"], r["category_id"]) for r in found])
    detections = detections[
        np.argsort(detections[:, 0], kind="stable")
    ]  # equal scores: by image, then in the given order
    for kind in ("VOC07", "VOC12"):
        by_class = [kit(truth[truth[:, 6] == k], detections[detections[:, 6] == k])[kind] for k in (1, 2, 3)]
        assert [entry[kind] for entry in results["per_class"].values()] == [
            *(pytest.approx(v, abs=1e-9) for v in by_class),
            None,
        ]
        assert results[kind] == pytest.approx(np.mean(by_class), abs=1e-9)
        assert 0.1 < results[kind] < 0.9
    assert "Pascal VOC's mAP at IoU 0.5: " in format_table(results)
    plain = CocoEvaluator(data)
    plain.load(found)
    assert not {"VOC07", "VOC12"} & plain.compute().keys()
