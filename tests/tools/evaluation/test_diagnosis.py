"""The reasons for an AP of zero and for undefined metrics, from arrays of boxes."""

from __future__ import annotations

import numpy as np
import pytest

from tools.evaluation.diagnosis import crowded_warning, undefined_reasons, zero_reason

SIZES = {1: (100.0, 100.0)}
OBJECT = [50.0, 50, 40, 40]


def rows(*boxes: list[float], last: float = 0, category: int = 1) -> np.ndarray:
    """Return rows of image 1; `last` is the score of detections and the crowd flag of objects."""
    return np.array([[1, *box, last, category] for box in boxes], dtype=np.float64)


def reason(*boxes: list[float], score: float = 0.9) -> str | None:
    return zero_reason(rows(OBJECT), rows(*boxes, last=score), SIZES, [1], is_zero=False)


@pytest.mark.parametrize("end", [99.0, 100, 102])  # at most two pixels beyond the image
def test_corners_are_recognised_up_to_the_border_of_their_image(end: float):
    assert str(reason([50, 50, end, end])).startswith("the boxes look like x1, y1, x2, y2 (100 % leave")


def test_other_boxes_are_not_taken_for_corners():
    assert reason([50, 50, 103, 103]) is None  # as corners they would leave the image, too
    assert reason([10, 10, 92, 92]) is None  # at most two pixels beyond the image
    corners, beyond, inside = [60.0, 60, 100, 100], [90.0, 90, 20, 20], [70.0, 70, 10, 10]
    # Four of six boxes leave the image, three of these may be corners, the other two may not: half, which is too few.
    assert reason(corners, corners, corners, beyond, inside, inside) is None
    assert "x1, y1, x2, y2 (80 % leave" in str(reason(corners, corners, corners, beyond, inside))


def test_boxes_up_to_one_look_normalised_whatever_their_scores():
    assert str(reason([0.5, 0.5, 0.4, 1.0], score=7)).startswith("the boxes look normalised")
    assert reason([0.5, 0.5, 0.4, 1.1]) is None


def test_reasons_name_what_the_truth_lacks():
    mixed = np.concatenate([rows(OBJECT), rows(OBJECT, last=1)])
    assert undefined_reasons({"AP": 0.5, "APs": None}, mixed) == {
        "APs": "no ground-truth object has an area below 32^2 px"
    }
    assert undefined_reasons({"AP": None}, rows(OBJECT, OBJECT, last=1)) == {
        "AP": "the ground truth of the scored images has only crowd regions (2)"
    }


def test_the_most_crowded_image_is_named_and_the_others_counted():
    assert crowded_warning({}, {3: "cat"}, 100) is None
    one = "image 5 has 120 objects of class cat, but only the 100 best detections"
    assert str(crowded_warning({(5, 3): 120}, {3: "cat"}, 100)).startswith(one)
    two = "image 6 has 130 objects of class cat (2 such images), but only"
    assert str(crowded_warning({(5, 3): 120, (6, 3): 130}, {3: "cat"}, 100)).startswith(two)
