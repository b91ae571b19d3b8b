"""Exports of annotation tools are recognised, read, checked and evaluated from `--data` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tool_exports import EXPORTS, OBJECTS, litter

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import layout_of, open_split, read_annotations, splits_of
from detection.data.layouts.known import BUILT_IN
from detection.options import DetectionDataOptions
from tools import check_data, convert_data, train_det
from tools.cli.parsing import parse
from tools.evaluation.evaluator import CocoEvaluator
from tools.tasks.options import TrainDetectorOptions

EXPECTED = {name: [(label, pytest.approx(box, abs=1e-4)) for label, box in things] for name, things in OBJECTS.items()}


def contents(data: CocoAnnotations) -> dict[str, list[tuple[str, list[float]]]]:
    """Return class and box (left, top, width, height) of the objects of each image, by file name."""
    found = {}
    for row, name in enumerate(data.file_names.tolist()):
        boxes, labels, _ = data.of_image(row)
        titles = [data.categories.names[label - 1] for label in labels]
        sides = [[x, y, right - x, bottom - y] for x, y, right, bottom in boxes.tolist()]
        found[Path(name).name] = list(zip(titles, sides))
    return found


@pytest.fixture(params=EXPORTS)
def export(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Return the name of a layout, and a data set that has it."""
    layout, write = EXPORTS[request.param]
    write(tmp_path / "set")
    return layout, tmp_path / "set"


def test_an_export_is_recognised_read_and_evaluated(export: tuple[str, Path]):
    layout, root = export
    known = layout_of(root)
    assert known is not None and known.name == layout
    for split in splits_of(root):
        data = CocoAnnotations.of(open_split(root, split))
        assert contents(data) == EXPECTED
        assert not {".json", ".xml"} & {*data.passed_over}, "a file that was read is counted as passed over"
        assert data.categories.names == ("cat", "dog")
        assert all((data.folder / name).is_file() for name in data.file_names)
    data = read_annotations(DetectionDataOptions(data=str(root)), "train")
    truth = data.source if isinstance(data.source, Path) else json.loads(data.source)
    evaluator = CocoEvaluator(truth, category_ids=data.categories.ids, image_ids=data.image_ids.tolist())
    for row, image in enumerate(data.image_ids):
        boxes, labels, _ = data.of_image(row)
        evaluator.update([{"boxes": boxes, "labels": labels, "scores": np.ones(len(boxes))}], [{"image_id": image}])
    assert evaluator.compute()["AP"] == pytest.approx(1)
    if len(splits_of(root)) > 1:
        assert len(read_annotations(DetectionDataOptions(data=str(root)), "val")) == 2


def test_files_of_operating_systems_change_nothing(export: tuple[str, Path]):
    layout, root = export
    splits = splits_of(root)
    before = {split: CocoAnnotations.of(open_split(root, split)) for split in splits}
    litter(root)
    known = layout_of(root)
    assert known is not None and known.name == layout and splits_of(root) == splits
    for split, data in before.items():
        after = CocoAnnotations.of(open_split(root, split))
        assert contents(after) == EXPECTED and after.passed_over == data.passed_over and after.notes == data.notes


@pytest.mark.parametrize("name", ["datumaro-coco", "vocdevkit", "roboflow-yolo", "labelme", "spreadsheet-tabs"])
def test_a_data_set_in_folders_of_an_archive_is_found_and_named(name: str, tmp_path: Path):
    layout, write = EXPORTS[name]
    root = tmp_path / "download" / "pets-main"
    write(root / "data")
    litter(root / "data")
    (root / "README.md").write_text("pets\n")
    (tmp_path / "download" / "__MACOSX").mkdir()
    splits = splits_of(root / "data")
    assert splits_of(tmp_path / "download") == splits
    for split in splits:
        truth = open_split(tmp_path / "download", split, layout=layout)
        assert contents(CocoAnnotations.of(truth)) == EXPECTED
        assert f"folder {root / 'data'}, which is read in place of {tmp_path / 'download'}" in truth.notes
    report = check_data.check(check_data.CheckOptions(data=str(tmp_path / "download")))
    assert report.checked[min(report.checked)]["annotations"] == 3
    (tmp_path / "download" / "masks").mkdir()  # any other name could be that of a folder of images
    with pytest.raises(UserError, match=r"download: unknown layout|lacks"):
        open_split(tmp_path / "download", "train", layout=layout)


def test_the_check_finds_no_fault_in_an_export(export: tuple[str, Path]):
    """All exports have the same images in both splits, which is a fault of these small data sets."""
    report = check_data.check(check_data.CheckOptions(data=str(export[1])))
    kinds = {problem.kind for problem in report.problems}
    assert kinds <= {"image in both splits", "no such split", "foreign file name", "other notation", "passed over"}
    train = report.checked[min(report.checked)]
    assert {"images": 2, "annotations": 3}.items() <= train.items()


@pytest.mark.parametrize(
    "name", [name for name, (layout, _) in EXPORTS.items() if layout not in ("coco", "voc", "yolo")]
)
def test_an_export_is_converted_to_coco(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    EXPORTS[name][1](tmp_path / "set")
    convert_data.main(["--data", str(tmp_path / "set"), "--to", "coco", "--output", str(tmp_path / "new")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train: 2 images, 3 boxes")
    for split in splits_of(tmp_path / "new"):
        assert contents(CocoAnnotations.of(open_split(tmp_path / "new", split))) == EXPECTED


FILES = {
    "coco": ("label-studio-coco", "result.json", "images"),
    "roboflow": ("roboflow-coco", "train/_annotations.coco.json", "train"),
    "cvat": ("cvat-images", "annotations.xml", "images"),
    "label-studio": ("label-studio-json", "project-1-at-2024-01-01-00-00-abcdef01.json", "images"),
    "via": ("via-csv", "via_export_csv.csv", "."),
    "table": ("roboflow-tensorflow", "train/_annotations.csv", "train"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_annotation_file_and_a_folder_of_images_are_enough(name: str, tmp_path: Path, capsys: Any):
    export, file, images = FILES[name]
    EXPORTS[export][1](tmp_path / "set")
    (tmp_path / "set" / file).rename(tmp_path / Path(file).name)
    words = ["--annotations", str(tmp_path / Path(file).name), "--images", str(tmp_path / "set" / images)]
    options = parse(TrainDetectorOptions, description="", argv=words).data
    data = read_annotations(options, "train")
    assert {name: len(things) for name, things in contents(data).items()} == {"a.jpg": 2, "b.png": 1}
    assert data.categories.names == ("cat", "dog")
    with pytest.raises(UserError, match="has no split val; divide it with --val-fraction"):
        read_annotations(options, "val")
    check_data.main(words)
    convert_data.main([*words, "--to", "yolo", "--output", str(tmp_path / "new")])
    assert "train: 2 images, 3 boxes" in capsys.readouterr().out
    assert len(read_annotations(DetectionDataOptions(data=str(tmp_path / "new")), "train").boxes) == 3


def test_all_layouts_are_listed(capsys: pytest.CaptureFixture[str]):
    for command in (train_det, check_data, convert_data):
        with pytest.raises(SystemExit) as ended:
            command.main(["--layout", "list"])
        assert not ended.value.code
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BUILT_IN)


def test_every_layout_has_an_export():
    own_tests = {"instance-maps"}
    assert {layout for layout, _ in EXPORTS.values()} == set(BUILT_IN) - own_tests
