"""Sizes of boxes and the anchors that cover them, with numbers computed by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CocoFolder

from tools import check_data
from tools.checks.box_sizes import Boxes, coverage, describe_boxes, describe_line, describe_proposals, propose
from tools.checks.findings import unequal


def boxes_of(*boxes: tuple[float, float, float, float], size: tuple[int, int] = (400, 400)) -> Boxes:
    return Boxes(
        np.array(boxes, float), np.array([size] * len(boxes)), [f"c{index % 2}" for index in range(len(boxes))]
    )


def test_an_anchor_covers_a_box_from_half_its_area():
    # Anchors of the first level are 32x32 at multiples of 4. In the centre of a box of side s, IoU is s * s / 1024.
    def covered(side: float, middle: float = 100) -> bool:
        low, high = middle - side / 2, middle + side / 2
        found = coverage(boxes_of((low, low, high, high)), min_size=400, max_size=400, anchor_scale=8)
        return bool(found[0])

    assert covered(23) and not covered(22)  # 529 / 1024 and 484 / 1024
    # Two pixels beside the nearest centre in both directions: 24x24 inside 32x32 stays inside, so nothing changes.
    assert covered(24, middle=102)
    # 31x31, moved by 2: the intersection is (16 + 15.5 - 2) ** 2 = 870 of 1024 + 961 - 870.
    assert covered(31, middle=102)
    # An image of half the size makes boxes half as large.
    half = coverage(boxes_of((80, 80, 112, 112)), min_size=200, max_size=200, anchor_scale=8)
    assert not half[0]
    assert coverage(boxes_of((80, 80, 112, 112)), min_size=200, max_size=200, anchor_scale=4)[0]


def test_flat_boxes_need_the_anchors_of_other_ratios():
    # The anchor of ratio 2 (height by width) and area 32 * 32 is 22.6 pixels wide and 45.3 high.
    assert coverage(boxes_of((88, 76, 112, 124)), min_size=400, max_size=400, anchor_scale=8)[0]
    assert not coverage(boxes_of((97, 60, 103, 140)), min_size=400, max_size=400, anchor_scale=8)[0]


def test_a_proposal_covers_more_than_the_default_and_names_its_options():
    # Boxes of 8x8 pixels in images of 400: at a short side of 800 they have 16 pixels, which no anchor of 32 covers.
    small = boxes_of(*((x, x, x + 8, x + 8) for x in range(0, 380, 20)))
    default, proposal = propose(small)
    assert default["covered"] == 0 and proposal["covered"] == proposal["small"] == 1
    assert proposal["anchor_scale"] < 8
    lines = describe_proposals([default, proposal])
    assert lines[0].startswith("default: --min-size 800 --max-size 1333 --anchor-scale 8: an anchor covers 0% of the")
    assert f"--anchor-scale {proposal['anchor_scale']:g}: an anchor covers 100%" in lines[1]
    assert len(propose(boxes_of((10, 10, 200, 200)))) == 1  # the default covers it


def test_boxes_are_described_by_class_side_and_ratio():
    values = describe_boxes(boxes_of((0, 0, 10, 10), (0, 0, 50, 50), (0, 0, 100, 400)))
    assert values["classes"] == {"c0": 2, "c1": 1}
    assert values["sizes"] == {name: pytest.approx(1 / 3, abs=1e-4) for name in ("small", "medium", "large")}
    assert values["side"][1] == 50 and values["height_by_width"][1] == 1
    first, second = describe_line("train", values)
    assert first == "boxes of train by class: c0 2, c1 1"
    assert second.endswith("small 33%, medium 33%, large 33%")


def test_classes_are_unequal_from_ten_to_one(coco: CocoFolder, tmp_path: Path):
    assert unequal({"a": 20, "b": 2, "c": 7}, "images") == "20 images of a, but 2 of b (10 to 1)"
    assert not unequal({"a": 19, "b": 2}, "images") and not unequal({"a": 5}, "images") and not unequal({}, "images")
    # Boxes of the training split, and images of class folders, of which empty classes have a remark of their own.
    dogs = [{**coco.data["annotations"][0], "id": 20 + n, "bbox": [n, 0, 5, 5]} for n in range(11)]
    coco.data["annotations"] = [*dogs, coco.data["annotations"][1]]
    coco.write()
    for path, count in (("train/ant", 10), ("train/bee", 1), ("val/ant", 9), ("val/bee", 1)):
        (tmp_path / "classes" / path).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((4, 4, 3), number + 20 * len(path), np.uint8)
            cv2.imwrite(str(tmp_path / "classes" / path / f"{number}.png"), pixels)
    for root, text in (
        (coco.root, "11 boxes of dog, but 1 of brush (11 to 1)"),
        (tmp_path / "classes", "10 images of ant, but 1 of bee (10 to 1); see --class-weights and --sampling"),
    ):
        report = check_data.check(check_data.CheckOptions(data=str(root), decode=False))
        found = [(problem.split, problem.text) for problem in report.problems if problem.kind == "unequal classes"]
        assert found == [("train", text)]
        assert "unequal classes" in report.table()
