"""Projects of Supervisely: shapes, data sets and malformed objects."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from tool_exports import EXPORTS, supervisely_meta, supervisely_set, supervisely_shape

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import open_split, splits_of
from detection.data.layouts.collector import NO_AREA
from detection.data.layouts.supervisely import UNLABELLED


@pytest.fixture
def root(tmp_path: Path) -> Path:
    EXPORTS["supervisely-bitmaps"][1](tmp_path)
    return tmp_path


def change(root: Path, shape: dict[str, Any]) -> None:
    """Replace the shape of the dog in `a.jpg`."""
    path = root / "ds1" / "ann" / "a.jpg.json"
    content = json.loads(path.read_text())
    content["objects"][0] = {"classTitle": "dog", **shape}
    path.write_text(json.dumps(content))


def read(root: Path, **options: Any) -> CocoAnnotations:
    return CocoAnnotations.of(open_split(root, "train", masks=True), **options)


def test_outlines_are_masks(root: Path):
    """The dog is a polygon of 20 x 30 pixels with a hole of 4 x 5."""
    shape = supervisely_shape("polygon", (10, 5, 20, 30))
    shape["points"]["interior"] = [[[14, 10], [18, 10], [18, 15], [14, 15]]]
    change(root, shape)
    masks = [record["segmentation"] for record in open_split(root, "train").data["annotations"]]
    assert [sum(mask["counts"][1::2]) for mask in masks] == [20 * 30 - 4 * 5, 60 * 40, 30 * 10]
    assert read(root, without_mask="error").masks is not None


def test_points_are_left_out_and_counted(root: Path):
    change(root, {"geometryType": "point", "points": {"exterior": [[1, 2]], "interior": []}})
    data = read(root)
    assert len(data.boxes) == 2 and data.notes[NO_AREA] == 1


def test_data_sets_that_are_no_splits_are_one(tmp_path: Path):
    EXPORTS["supervisely"][1](tmp_path)
    supervisely_set(tmp_path / "third", "rectangle")
    assert splits_of(tmp_path) == ["train"] and len(read(tmp_path)) == 6


def test_data_sets_in_a_data_set_are_read(tmp_path: Path):
    supervisely_set(tmp_path / "city" / "datasets" / "north", "rectangle")
    supervisely_meta(tmp_path)
    assert len(read(tmp_path).boxes) == 3


BOMB = base64.b64encode(zlib.compress(bytes(10**8))).decode()


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ({"geometryType": "bitmap", "bitmap": {"data": BOMB, "origin": [0, 0]}}, "its bitmap is no image"),
        ({"geometryType": "bitmap", "bitmap": {"data": "?", "origin": [0]}}, "its bitmap has no `origin`"),
        (supervisely_shape("bitmap", (50, 5, 20, 30)), "its bitmap is not inside the image"),
        ({"geometryType": "rectangle", "points": {"exterior": [[1, 2]]}}, r"its points \[\[1, 2\]\] are no rectangle"),
        (
            {"geometryType": "polygon", "points": {"exterior": [[1, 2], [3, 4], [5, 9]], "interior": [[[1, 1]]]}},
            "a hole has fewer than three points",
        ),
    ],
)
def test_malformed_shapes_are_named(root: Path, shape: dict[str, Any], error: str):
    change(root, shape)
    with pytest.raises(UserError, match=rf"a.jpg.json: object 1: {error}; fix the object"):
        open_split(root, "train")


def test_images_without_an_annotation_file_are_counted(root: Path):
    assert UNLABELLED not in open_split(root, "train").notes
    next(root.glob("*/ann/b.png.json")).unlink()
    assert open_split(root, "train").notes[UNLABELLED] == 1
