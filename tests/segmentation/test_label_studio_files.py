"""Label Studio's JSON: several exports in a folder, and tasks that nobody annotated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_exports import HALF, label_studio, photo, save, task

from backbones.common.label_studio import FURTHER, UNLABELLED
from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import open_split
from segmentation.data.folders import split_names
from segmentation.data.label_studio import AGAIN, read_label_studio
from segmentation.data.painted import PaintedLabels
from tools import check_data

RIGHT = {"x": 50, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": ["foreground"]}
LEFT = {**RIGHT, "x": 0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    label_studio(tmp_path)
    return tmp_path


def write(root: Path, name: str, *tasks: Any) -> None:
    (root / name).write_text(json.dumps(tasks))


def read(root: Path, split: str = "train") -> PaintedLabels:
    return read_label_studio(root, split, bits=None)


def test_tasks_without_an_annotation_are_left_out_and_counted(root: Path):
    photo(root / "images" / "d.jpg")
    photo(root / "images" / "e.jpg")
    path = next(root.glob("*.json"))
    cancelled = task(4, "e.jpg")
    cancelled["annotations"].pop()
    unlabelled = {"id": 3, "data": {"image": "d.jpg"}, "annotations": []}
    path.write_text(json.dumps([*json.loads(path.read_text()), unlabelled, cancelled]))
    source = read(root)
    assert len(source) == 2 and source.notes == {UNLABELLED: 2}
    sides = {"original_width": 6, "original_height": 4}
    minimal = {"id": 1, "image": "/data/c.jpg", "tag": [{**RIGHT, **sides}]}
    path.write_text(json.dumps([minimal, {"id": 2, "image": "/data/d.jpg"}]))
    source = read(root)
    assert len(source) == 1 and source.notes == {UNLABELLED: 1} and np.array_equal(source.labels(0, (4, 6)), HALF)
    empty = {"id": 2, "image": "/data/d.jpg", "annotation_id": 3}
    path.write_text(json.dumps([{**minimal, "annotation_id": 1}, empty]))
    source = read(root)
    assert len(source) == 2 and source.notes == {} and not source.labels(1, (4, 6)).any()
    assert CocoAnnotations.of(open_split(root, "train")).empty().tolist() == [False, True]


def test_of_several_annotations_the_one_that_is_marked_as_ground_truth_counts(root: Path):
    for path in root.glob("*.json"):
        path.unlink()
    left, right = (task(1, "c.jpg", ("rectanglelabels", side)) for side in (LEFT, RIGHT))
    left["annotations"] += right["annotations"]
    write(root, "project.json", left)
    source = read(root)
    assert source.notes == {FURTHER: 1} and not np.array_equal(source.labels(0, (4, 6)), HALF)
    left["annotations"][-1]["ground_truth"] = True
    write(root, "project.json", left)
    source = read(root)
    assert source.notes == {FURTHER: 1} and np.array_equal(source.labels(0, (4, 6)), HALF)


def test_malformed_results_and_points_have_no_traceback(root: Path):
    path = next(root.glob("*.json"))
    tasks = json.loads(path.read_text())
    tasks[0]["annotations"][1]["result"] = 5
    path.write_text(json.dumps(tasks))
    assert read(root).labels(0, (4, 6)).sum() == 0
    tasks[1]["annotations"][1]["result"][0]["value"] |= {"points": 5}
    path.write_text(json.dumps(tasks))
    with pytest.raises(UserError, match=r"task 2: the outline .* is malformed; export it again"):
        read(root)


def test_several_exports_that_name_no_split_are_one(root: Path):
    first = next(root.glob("*.json"))
    tasks = json.loads(first.read_text())
    first.unlink()
    for number, each in enumerate(tasks):
        write(root, f"project-{number}.json", each)
    source = read(root)
    assert len(source) == 2 and split_names(root) == [] and source.where == str(root)
    assert all(np.array_equal(source.labels(row, (4, 6)), HALF) for row in range(2))
    report = check_data.check(check_data.CheckOptions(data=str(root), truth="labels"))
    assert {problem.kind for problem in report.problems} <= {"no such split", "note", "image in both splits"}
    with pytest.raises(UserError, match="has no split val"):
        read(root, "val")


def test_an_image_of_several_tasks_is_read_once_unless_they_contradict(root: Path):
    write(root, "second.json", task(1, "c.jpg", ("rectanglelabels", RIGHT)), task(2, "a b.jpg"))
    source = read(root)
    assert len(source) == 2 and source.notes == {AGAIN: 2}
    write(root, "second.json", task(7, "c.jpg", ("rectanglelabels", LEFT)))
    with pytest.raises(
        UserError, match=r"second.json: task 7: the image c.jpg has other outlines in .*: task 2; delete"
    ):
        read(root)


def test_a_split_without_an_export_is_named(root: Path):
    next(root.glob("*.json")).rename(root / "val.json")
    write(root, "test.json", task(1, "c.jpg", ("rectanglelabels", RIGHT)))
    assert len(read(root, "val")) == 2
    with pytest.raises(UserError, match=r"has no JSON export of Label Studio for train; call one train\.json"):
        read(root)


def test_an_absent_validation_split_beside_a_test_split_is_reported(root: Path):
    next(root.glob("*.json")).rename(root / "train.json")
    write(root, "test.json", task(1, "c.jpg", ("rectanglelabels", RIGHT)))
    folders = root / "folders"
    for split in ("train", "test"):
        photo(folders / "images" / split / "a.jpg")
        save(folders / "masks" / split / "a.png", HALF.astype(np.uint8))
    (folders / "classes.txt").write_text("sky\nsea\n")
    for data in (root, folders):
        report = check_data.check(check_data.CheckOptions(data=str(data), truth="labels"))
        (problem,) = [problem for problem in report.problems if problem.kind == "no such split"]
        assert list(report.checked) == ["train"] and problem.text.startswith("the data set has the splits test, train;")
