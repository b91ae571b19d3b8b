"""Tiles of large images: their positions, and each object found once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from backbones.common.images import tile_starts
from backbones.errors import UserError
from detection import Detections
from detection.tiles import Tiles, _is_cut, detect_in_tiles, merge


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows)
    names = tuple("abc"[label] for label in labels)
    return Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), names)


def test_tiles_cover_a_side():
    assert tile_starts(10, 20, 0.25) == [0]
    assert tile_starts(100, 40, 0.25) == [0, 30, 60]  # steps of 40 x 0.75 = 30
    assert tile_starts(101, 40, 0.25) == [0, 20, 41, 61]  # 61 / 30 rounded up: 3 steps


def test_a_whole_box_replaces_a_cut_part_of_it():
    """The left half has the higher score, but is cut at the edge of its tile."""
    merged = merge(found(([0, 0, 50, 100], 0.9, 1), ([0, 0, 100, 100], 0.8, 1)), torch.tensor([True, False]))
    assert merged.boxes.tolist() == [[0, 0, 100, 100]]
    assert merged.scores.tolist() == pytest.approx([0.8])


def test_cut_parts_become_the_box_around_them():
    """A long object has three parts of 100 pixels: each overlaps the next by 60 pixels."""
    parts = found(([0, 0, 100, 50], 0.7, 1), ([40, 0, 140, 50], 0.9, 1), ([80, 0, 180, 50], 0.6, 1))
    merged = merge(parts, torch.tensor([True, True, True]))
    assert merged.boxes.tolist() == [[0, 0, 180, 50]]
    assert merged.scores.tolist() == pytest.approx([0.9])


def test_boxes_of_other_classes_and_small_whole_boxes_are_kept():
    """A whole box inside another is an object of its own: 10x10 in 100x100 is an IoU of 0.01."""
    given = found(([0, 0, 100, 100], 0.9, 1), ([0, 0, 100, 100], 0.8, 2), ([10, 10, 20, 20], 0.7, 1))
    merged = merge(given, torch.tensor([False, False, False]))
    assert merged.names == ("b", "c", "b")
    assert len(merge(found(([0, 0, 9, 9], 0.5, 1)).where(torch.tensor([False])), torch.zeros(0, dtype=torch.bool))) == 0


class Seer:
    """A detector that finds the rectangle of each grey value, if no side of the image is longer than `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.largest = limit, 0

    def predict(self, images: Any) -> list[Detections]:
        results = []
        for image in images:
            rows = []
            if max(image.shape[1:]) <= self.limit:
                self.largest = max(self.largest, *image.shape[1:])
                for value in image.unique().tolist()[1:]:
                    y, x = (image[0] == value).nonzero().T
                    box = [float(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1)]
                    rows.append((box, 0.5 + value / 1000, 1))
            results.append(found(*rows) if rows else found(([0, 0, 1, 1], 0.0, 1)).where(torch.tensor([False])))
        return results


@pytest.mark.parametrize("seed", range(8))
def test_every_object_is_found_once(seed: int):
    """Objects are rectangles up to the size of the overlap (25 of 100 pixels), on a grid so that they do not touch."""
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(60, 420, 2))
    image, truth = torch.zeros(3, height, width, dtype=torch.uint8), set()
    for number, (top, left) in enumerate((y, x) for y in range(0, height - 30, 40) for x in range(0, width - 30, 40)):
        y, x = (int(v) for v in random.integers(0, 5, 2))
        h, w = (int(v) for v in random.integers(8, 25, 2))
        image[:, top + y : top + y + h, left + x : left + x + w] = number + 1
        truth.add((left + x, top + y, left + x + w, top + y + h))
    seer: Any = Seer(limit=100)
    if max(height, width) <= 100:
        pytest.skip("needs no tiles")
    merged = detect_in_tiles(seer, image, Tiles(100), batch_size=3)
    assert {tuple(map(int, box)) for box in merged.boxes.tolist()} == truth
    assert len(merged) == len(truth)
    assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)


def test_objects_larger_than_a_tile_are_found_in_the_whole_image():
    image = torch.zeros(3, 300, 400, dtype=torch.uint8)
    image[:, 50:250, 50:350] = 9
    seer: Any = Seer(limit=1000)
    assert detect_in_tiles(seer, image, Tiles(100)).boxes.tolist() == [[50, 50, 350, 250]]


@pytest.mark.parametrize("side, overlap", [(8, 0.2), (100, 1.0), (100, -0.1)])
def test_impossible_tiles_are_refused(side: int, overlap: float):
    with pytest.raises(UserError, match="tiles of"):
        Tiles(side, overlap)


def test_tiles_of_an_image():
    image = torch.zeros(3, 100, 160)
    assert Tiles(100, 0.25).corners(image) == [(0, 0), (60, 0)]
    assert Tiles(100, 0.25).corners(image.mT) == [(0, 0), (0, 60)]
    assert not Tiles(160).needed(image) and Tiles(159).needed(image) and Tiles(159).needed(image.mT)
    assert Tiles(16, 0.0).side == 16  # the smallest one
    with pytest.raises(UserError, match="tiles of 15 pixels"):
        Tiles(15)


@pytest.mark.parametrize(("height", "count"), [(50, 2), (52, 1)])
def test_whole_boxes_are_one_object_beyond_half_an_overlap(height: int, count: int):
    """The second box lies in the first one of 100 x 100 pixels: its height in percent is the IoU."""
    merged = merge(found(([0, 0, 100, 100], 0.9, 1), ([0, 0, 100, height], 0.8, 1)), torch.tensor([False, False]))
    assert len(merged) == count


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize(("left", "count"), [(95, 2), (94, 1)])
def test_a_cut_box_is_a_part_beyond_half_of_its_area(left: int, count: int, is_cut: bool):
    """10 x 10 pixels, of which 5 or 6 columns lie in the better box. If that is cut too, it grows around the part."""
    parts = found(([0, 0, 100, 100], 0.9, 1), ([left, 0, left + 10, 10], 0.8, 1))
    merged = merge(parts, torch.tensor([is_cut, True]))
    assert len(merged) == count
    assert merged.boxes[0].tolist() == [0, 0, left + 10 if is_cut and count == 1 else 100, 100]


@pytest.mark.parametrize(("side", "margin"), [(100, 2.0), (1000, 10.0)])
def test_boxes_near_an_inner_edge_of_their_tile_are_cut(side: int, margin: float):
    """A hundredth of the side is near, and at least 2 pixels. The second image ends where the tile ends."""
    low, high, middle = 200.0, 200.0 + side, 200.0 + side / 2
    near = [[low + d, middle, middle, middle] for d in (margin - 0.5, margin)]
    near += [[middle, low + d, middle, middle] for d in (margin - 0.5, margin)]
    near += [[middle, middle, high - d, middle] for d in (margin - 0.5, margin)]
    near += [[middle, middle, middle, high - d] for d in (margin - 0.5, margin)]
    boxes, large = torch.tensor(near), torch.zeros(1, 201 + side, 201 + side)
    assert _is_cut(boxes, 200, 200, side, large).tolist() == [True, False] * 4
    assert _is_cut(boxes, 200, 200, side, large[:, 1:, 1:]).tolist() == [True, False] * 2 + [False] * 4
    assert _is_cut(boxes - 200, 0, 0, side, large).tolist() == [False] * 4 + [True, False] * 2
