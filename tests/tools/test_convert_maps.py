"""Label maps are converted between all layouts that can hold them; what a layout cannot hold is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from label_exports import HALF, LABEL_EXPORTS, photo, save
from PIL import Image

from backbones.errors import UserError
from segmentation.data.convert import MapLayout
from segmentation.data.dataset import LabelSource
from segmentation.data.folders import home_of, layout_name, open_source, split_names
from segmentation.options import SegmentationDataOptions
from tools import check_data, convert_data

LAYOUTS = get_args(MapLayout)
NAMES = ("background", "ant", "bee")


def maps() -> dict[str, np.ndarray]:
    """Label maps of 4 x 6 pixels by split and name, with ignored pixels, a region in two parts, and an empty map."""
    random = np.random.default_rng(0)
    noise = random.choice(np.array([0, 1, 2, 255], np.uint8), (4, 6))
    return {"train/a": HALF, "train/b c": noise, "val/d": 2 * HALF, "val/e": np.zeros((4, 6), np.uint8)}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "folders"
    for name, labels in maps().items():
        photo(root / "images" / f"{name}.jpg")
        save(root / "labels" / f"{name}.png", labels)
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


def convert(source: Path, to: str, output: Path, *words: str) -> Path:
    given = ("--data", source, "--truth", "labels", "--to", to, "--output", output, *words)
    convert_data.main([*map(str, given)])
    return output


def opened(root: Path, split: str = "train", **options: Any) -> LabelSource:
    return open_source(root, "train", SegmentationDataOptions(train_split=split, **options))


def contents(root: Path) -> dict[str, np.ndarray]:
    found = {}
    for split in ("train", "val"):
        source = opened(root, split)
        for row in range(len(source)):
            assert source.image(row).shape == (4, 6, 3)
            found[f"{split}/{source.file(row).stem}"] = source.labels(row, source.size(row))
    return found


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, labels in expected.items():
        assert np.array_equal(found[name], labels), name


@pytest.mark.parametrize("to", LAYOUTS)
def test_label_maps_come_back_from_every_layout(folders: Path, to: str, tmp_path: Path, capsys: Any):
    first = convert(folders, "voc", tmp_path / "first") if to == "folders" else folders
    new = convert(first, to, tmp_path / "new one")
    printed = capsys.readouterr().out
    assert "left out" not in printed and "cannot hold" not in printed and "train: 2 images\nval: 2 images\n" in printed
    assert f"{new}: train on it with tools/train_seg.py --data '{new}'" in printed
    assert layout_name(home_of(new)) == to and opened(new).classes.names == NAMES
    assert_equal(contents(new), maps())
    report = check_data.check(check_data.CheckOptions(data=str(new), truth="labels", decode=True))
    # The images of this test are all grey; a label map without a class is no fault.
    assert {problem.kind for problem in report.problems} <= {"image in both splits", "near-equal image", "passed over",
        "class without pixels", "similar class names", "unnamed image"}  # fmt: skip
    again = convert(new, "cvat" if to == "folders" else "folders", tmp_path / "again")
    assert opened(again).classes.names == NAMES
    assert_equal(contents(again), maps())


@pytest.mark.parametrize("name", LABEL_EXPORTS)
def test_every_export_is_converted(name: str, tmp_path: Path, capsys: Any):
    LABEL_EXPORTS[name](tmp_path / "data")
    new = convert(tmp_path / "data", "voc" if name == "flat" else "folders", tmp_path / "new")
    source = opened(new)
    assert [source.file(row).stem for row in range(2)] == ["a b", "c"]
    assert all(np.array_equal(source.labels(row, (4, 6)), HALF) for row in range(2))
    assert "train: 2 images" in capsys.readouterr().out


def test_classes_are_changed_and_unused_ones_dropped_unless_they_are_kept(folders: Path, tmp_path: Path, capsys: Any):
    (folders / "classes.txt").write_text("background\nant\nbee\ncow\nfly\n")
    changed = convert(folders, "voc", tmp_path / "new", "--rename", "ant=emmet", "--drop-classes", "fly")
    assert "left out: classes without pixels (cow)" in capsys.readouterr().out
    assert opened(changed).classes.names == ("background", "emmet", "bee")
    assert_equal(contents(changed), maps())
    kept = convert(folders, "voc", tmp_path / "kept", "--drop-classes", "fly", "--keep-unused", "true")
    assert opened(kept).classes.names == (*NAMES, "cow")
    convert(folders, "label-studio", tmp_path / "studio")
    assert "left out: classes without pixels (cow, fly)" in capsys.readouterr().out
    whole = convert(folders, "voc", tmp_path / "whole")
    assert opened(whole).classes.names == (*NAMES, "cow", "fly")


def test_what_a_layout_cannot_hold_is_named(folders: Path, tmp_path: Path, capsys: Any):
    (folders / "classes.txt").write_text("zebra 10 0 0\nant 0 10 0\nbee 0 0 10\n")
    for name, labels in maps().items():
        colours = np.array([[10, 0, 0], [0, 10, 0], [0, 0, 10]], np.uint8)[labels.clip(0, 2)]
        save(folders / "labels" / f"{name}.png", colours)
    new = convert(folders, "label-studio", tmp_path / "new")
    lost = "colours of classes, data without a background (it adds the class background), "
    assert f"train: 2 images; the new layout cannot hold {lost}order of the classes (it sorts them)\n" in (
        capsys.readouterr().out
    )
    assert opened(new).classes.names == ("background", "ant", "bee", "zebra")
    assert contents(new)["train/a"].tolist() == np.array([3, 1, 2])[HALF].tolist()
    cvat = convert(folders, "cvat", tmp_path / "cvat")
    assert opened(cvat).classes.colours == ((10, 0, 0), (0, 10, 0), (0, 0, 10))


@pytest.mark.parametrize("to", LAYOUTS)
def test_splits_that_are_not_converted_are_named(folders: Path, to: str, tmp_path: Path, capsys: Any):
    first = convert(folders, to if to != "folders" else "voc", tmp_path / "first")
    first = convert(first, "folders", tmp_path / "back") if to == "folders" else first
    assert "not converted" not in capsys.readouterr().out
    assert split_names(first) == ["train", "val"]
    new = convert(first, "voc" if to != "voc" else "cvat", tmp_path / "new", "--val-split", "null")
    assert "that are not converted: val; name them with --train-split" in capsys.readouterr().out
    assert split_names(new) == ["train"]
    with pytest.raises(UserError, match=r"--masks: belongs to boxes; leave it out with --truth labels"):
        convert(first, to, tmp_path / "other", "--masks", "true")


def names(folders: Path, *given: str) -> None:
    (folders / "classes.txt").write_text("\n".join(given))


def turned(folders: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    Image.new("RGB", (6, 4)).save(folders / "images/train/a.jpg", exif=exif)


def renamed(folders: Path, name: str) -> None:
    for path in folders.glob("*/train/a.*"):
        path.rename(path.with_name(f"{name}{path.suffix}"))


@pytest.mark.parametrize(
    ("spoil", "to", "words"),
    [
        (lambda root: names(root, *NAMES), "folders", "already has this layout"),
        (lambda root: names(root, *NAMES), "yolo", "is no layout of label maps; name one of folders, beside"),
        (lambda root: names(root, "a", "b:c", "d"), "cvat", r"the name of a class \(a, b:c, d\).* labelmap\.txt"),
        (lambda root: names(root, "a", "void", "d"), "cvat", "cannot be written into labelmap"),
        (lambda root: names(root, "background", "ignore", "d"), "labelme", "class 'ignore' has another meaning"),
        (turned, "coco", r"a\.jpg: is 4x6 pixels after EXIF rotation, but its label map is 6x4"),
        (lambda root: renamed(root, "x_mask"), "beside", r"x_mask\.jpg: its name ends as that of a label map"),
        (lambda root: renamed(root, "d"), "voc", "d occurs in both train and val"),
    ],
)
def test_label_maps_that_a_layout_cannot_hold_are_refused_and_leave_no_files(
    folders: Path, spoil: Any, to: str, words: str, tmp_path: Path
):
    spoil(folders)
    with pytest.raises(UserError, match=words):
        convert(folders, to, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bands_are_converted_to_label_maps_in_files_only(folders: Path, tmp_path: Path):
    for path in sorted((folders / "images").rglob("*.jpg")):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.zeros((4, 6, 5), np.float32))
    new = convert(folders, "voc", tmp_path / "new")
    assert opened(new).image(0).shape == (4, 6, 5)
    with pytest.raises(UserError, match="is an array, which the new layout cannot hold"):
        convert(folders, "coco", tmp_path / "coco")
