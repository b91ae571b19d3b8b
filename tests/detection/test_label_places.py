"""Labels of drawn boxes: places that are free of other labels and of the edges of other boxes."""

from __future__ import annotations

import numpy as np
import pytest

from detection.draw import draw_detections
from detection.label_places import place_labels

SIZE = (30.0, 10.0)
CANVAS = (200.0, 200.0)


def places(*boxes: list[float], size: tuple[float, float] = SIZE) -> list[list[float]]:
    """Places of labels of one size for boxes xyxy on a canvas of 200 x 200 pixels."""
    found: list[list[float]] = place_labels(np.array(boxes), np.array([size] * len(boxes)), CANVAS).tolist()
    return found


def test_a_label_stands_above_its_box_or_inside_at_the_top_of_the_image():
    assert places([50, 60, 120, 150]) == [[50, 50]]  # 60 - 10
    assert places([50, 0, 120, 150]) == [[50, 0]]
    assert places([180, 60, 200, 150]) == [[170, 50]]  # 200 - 30, so that it ends with the canvas


def test_a_label_wider_than_the_canvas_begins_at_its_left_edge():
    assert places([50, 60, 120, 150], size=(400, 10)) == [[0, 50]]


@pytest.mark.parametrize(
    ("obstacle", "expected"),
    [
        ([60, 40, 70, 58], [90, 50]),  # an edge above on the left: above on the right, 120 - 30
        ([45, 52, 125, 55], [50, 60]),  # a box across the place above: inside at the top
        ([45, 52, 125, 65], [50, 150]),  # a box across both: below
    ],
)
def test_the_edges_of_another_box_move_a_label(obstacle, expected):
    assert places([50, 60, 120, 150], obstacle)[0] == expected


def test_equal_boxes_get_labels_side_by_side():
    box = [50, 60, 120, 150]
    assert places(box, box)[0] == [50, 50]
    assert places(box, box)[1] == [90, 50]  # above on the right, not over the first label


def test_a_label_does_not_hide_a_small_box():
    """At the top edge, the place above would lie inside: 30 x 10 of a box of 20 x 12. The next free one is below."""
    assert places([50, 0, 70, 12]) == [[50, 12]]


def overlaps(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one[:2] < other[2:]).all() and (one[2:] > other[:2]).all())


def test_no_label_of_a_row_of_neighbours_covers_another_one_or_a_line():
    """Nine boxes of 60 pixels, each overlapping the next one by 20, with labels longer than the free part."""
    boxes = np.array([[20 + 40 * i, 40 + 12 * i, 80 + 40 * i, 120 + 12 * i] for i in range(9)], float)
    sizes = np.full((9, 2), (45.0, 11.0))
    corners = place_labels(boxes, sizes, (440, 260))
    rectangles = np.concatenate([corners, corners + sizes], axis=1)
    for i, ours in enumerate(rectangles):
        left, top, right, bottom = boxes[i]
        assert overlaps(ours, np.array([left - 46, top - 12, right + 46, bottom + 12]))  # beside its own box
        for j in set(range(9)) - {i}:
            assert not overlaps(ours, rectangles[j])
            left, top, right, bottom = boxes[j]
            for edge in ((left, top, right, top + 2), (left, bottom - 2, right, bottom)):
                assert not overlaps(ours, np.array(edge))


def test_the_best_detection_keeps_its_label_where_all_compete():
    """Two equal boxes fill the image: the best one's label is complete, in its colour, whatever the order."""
    image = np.zeros((600, 600, 3), np.uint8)
    box = np.array([[100.0, 100, 500, 500]] * 2)
    one = draw_detections(image, box, [1, 2], ["a", "b"], [0.9, 0.5])
    other = draw_detections(image, box, [2, 1], ["b", "a"], [0.5, 0.9])
    assert np.array_equal(one, other)
    alone = draw_detections(image, box[:1], [1], ["a"], [0.9])
    label = (slice(80, 98), slice(100, 130))  # above the left corner
    assert np.array_equal(one[label], alone[label])
