"""Lists of training images: forms of the file, ways to name an image, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from backbones.errors import UserError
from tools.cli.parsing import parse
from tools.engine.bad_images import BadImages
from tools.engine.options import SubsetOptions
from tools.engine.train_list import TrainList
from tools.tasks.detection_data import open_train, open_val
from tools.tasks.options import TrainDetectorOptions, TrainSegmenterOptions
from tools.tasks.segmentation_data import open_data

NAMES = ["cat/000000000139.jpg", "cat/b.jpg", "dog/b.jpg", "dog/c 1.png"]
IDS = [139, 7, 8, 9]
# As Unbiased Teacher's COCO_supervision.txt.
SEVERAL = {"1.0": {"1": [139], "2": [8]}, "10.0": {"1": [139, 8], "2": [7, 8]}}


def read(tmp_path: Path, text: str, **options) -> TrainList:
    path = tmp_path / "list.txt"
    path.write_text(text)
    return TrainList.read(SubsetOptions(train_list=str(path), **options))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("cat/b.jpg\ndog/c 1\n\n", [1, 3]),
        ("# comment\nc 1.png\r\n000000000139\r\nc 1.png\n", [0, 3]),  # CRLF, last parts, a repeated entry
        ("data/obj/dog/c 1.png\n139\n", [0, 3]),  # as Darknet's train.txt; an id
        ("../cat/b.jpg\n/data/dog/b\n", [1, 2]),  # two images of this name, which their folders tell apart
        ("\ufeff[8, 139]", [0, 2]),
        ('["dog/b.jpg", 9]', [2, 3]),
        (json.dumps({"images": [{"id": 1, "file_name": "cat/b.jpg"}], "annotations": []}), [1]),
    ],
)
def test_images_are_found_by_id_path_or_last_part(tmp_path: Path, text: str, rows: list[int]):
    assert read(tmp_path, text).rows(NAMES, IDS).tolist() == rows


def test_one_of_several_lists_is_chosen_by_percent_and_draw(tmp_path: Path):
    listed = read(tmp_path, json.dumps(SEVERAL), list_percent=10, draw=2)
    assert listed.rows(NAMES, IDS).tolist() == [1, 2]
    assert read(tmp_path, json.dumps({"1": [7], "2": [9]}), draw=2).rows(NAMES, IDS).tolist() == [3]
    assert read(tmp_path, json.dumps({"5": [7], "10": [9]}), list_percent=5).rows(NAMES, IDS).tolist() == [1]
    assert read(tmp_path, json.dumps({"5": {"1": [7]}})).rows(NAMES, IDS).tolist() == [1]
    assert (
        read(tmp_path, "7\n7\n", draw=3)
        .describe(SubsetOptions(train_list="x", draw=3))
        .endswith("list.txt, draw 3; entries listed twice: 1")
    )


@pytest.mark.parametrize(
    ("text", "options", "error"),
    [
        ("b.jpg", {}, "b.jpg may be cat/b.jpg and dog/b.jpg; write paths of files with their suffix"),
        (
            "[7, 10, 11]",
            {},
            "2 entries of 3 are no training images of the data (10, 11); fix the list, or",
        ),
        ("cow/c 1.png", {}, "1 entry of 1 are no training images of the data (cow/c 1.png)"),  # not dog/c 1.png
        ("\n\n", {}, "lists no image; write one image id or file name a line"),
        ("[1.5]", {}, "holds no list of image ids or file names; write a list such as [139, 285]"),
        ("{1: 2}", {}, "is not valid JSON"),
        (json.dumps(SEVERAL), {}, "holds lists for 1.0, 10.0; choose one with --list-percent"),
        (json.dumps(SEVERAL), {"list_percent": 1}, "holds lists for 1, 2; choose one with --draw"),
    ],
)
def test_lists_that_cannot_be_used_are_one_line(tmp_path: Path, text: str, options: dict, error: str):
    with pytest.raises(UserError, match=re.escape(f"--train-list {tmp_path / 'list.txt'}: {error}")):
        read(tmp_path, text, **options).rows(NAMES, IDS)
    with pytest.raises(UserError, match=re.escape(f"--list-percent 3: {tmp_path / 'list.txt'} holds lists for 1.0,")):
        read(tmp_path, json.dumps(SEVERAL), list_percent=3)
    with pytest.raises(UserError, match=r"none\.txt: cannot be read"):
        TrainList.read(SubsetOptions(train_list=str(tmp_path / "none.txt")))


def test_a_number_that_is_an_id_and_another_images_name_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=re.escape("2 may be 1.jpg and 2.jpg; write paths")):
        read(tmp_path, "[2]").rows(["1.jpg", "2.jpg"], [2, 1])
    assert read(tmp_path, "2").rows(["1.jpg", "2.jpg"], [2, 1]).tolist() == [1]  # plain text names files first


def test_positions_count_the_images_with_objects_in_the_order_of_ids(tmp_path: Path):
    order = np.array([0, 2, 3])  # image 1 has no object
    assert read(tmp_path, "[2, 1]").rows_at(order).tolist() == [2, 3]
    with pytest.raises(UserError, match="3 is no position from 0 to 2; leave --list-positions out if"):
        read(tmp_path, "[0, 3]").rows_at(order)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"shots": 0}, "--shots 0: must be above 0"),
        ({"shots": 2, "fraction": 0.5}, "--shots 2: cannot be combined with --fraction; leave one of them out"),
        ({"shots": 2, "train_list": "x"}, "--train-list x: cannot be combined with --shots"),
        ({"list_percent": 1}, "--list-percent 1: needs --train-list"),
        ({"draw": -1}, "--draw -1: must be 0 or above"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options: dict, error: str):
    with pytest.raises(UserError, match=re.escape(error)):
        SubsetOptions(**options)


def test_a_detector_and_a_segmenter_train_on_listed_images(small_shapes: Path, tmp_path: Path):
    words = ["--data", str(small_shapes), "--train-list", str(tmp_path / "list.json")]
    options = parse(TrainDetectorOptions, description="", argv=words)
    val = open_val(options)
    whole = open_train(parse(TrainDetectorOptions, description="", argv=words[:2]), val).train
    assert whole
    ids, names = whole.annotations.image_ids, whole.annotations.file_names
    (tmp_path / "list.json").write_text(json.dumps(ids[[4, 1]].tolist()))
    data = open_train(options, val)
    assert data.train and data.train.indices.tolist() == [1, 4]
    assert data.chosen == f"--train-list {tmp_path / 'list.json'}: 2 of {len(ids)} images"
    # Positions skip images without objects.
    (tmp_path / "list.json").write_text(json.dumps([0, 1, int((~whole.annotations.empty()).sum()) - 1]))
    options.subset.list_positions = True
    listed = open_train(options, val).train
    assert listed and listed.indices.tolist() == np.flatnonzero(~whole.annotations.empty())[[0, 1, -1]].tolist()
    (tmp_path / "list.json").write_text(json.dumps([names[3]]))
    maps = parse(TrainSegmenterOptions, description="", argv=words)
    source = open_data(maps, BadImages(tmp_path, skip=False, seed=0)).train
    assert source and [source.source.file(int(row)).name for row in source.indices] == [names[3]]
    maps.subset.list_positions = True
    with pytest.raises(UserError, match="--list-positions: only for boxes"):
        open_data(maps, BadImages(tmp_path, skip=False, seed=0))
