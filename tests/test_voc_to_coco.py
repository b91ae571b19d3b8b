"""Pascal VOC's layout to COCO's: boxes by hand, lists, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbones.errors import UserError
from detection.annotations import CocoAnnotations
from detection.data import read_image
from tools.coco_layout import find_split
from tools.voc_to_coco import convert

BCCD = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"


def object_xml(name: str, box: tuple[int, int, int, int]) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three images of 60x40: two objects, one, none."""
    root = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    things = {
        "a": object_xml("dog", (11, 6, 30, 35)) + object_xml("cat", (1, 1, 60, 40)),
        "b": object_xml("cat", (5, 5, 9, 9)),
        "c": "",
    }
    for name, objects in things.items():
        size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), np.full((40, 60, 3), 90, np.uint8))
    (root / "ImageSets/Main/trainval.txt").write_text("a\nc\n")
    (root / "ImageSets/Main/test.txt").write_text("b\n")
    return root


def test_boxes_and_splits(voc: Path, tmp_path: Path):
    """VOC counts pixels from 1 and includes the last: 11..30 begins at 10 and is 20 wide, 6..35 is 30 high."""
    out = convert(voc, tmp_path / "coco", train="trainval", val="test")
    train = CocoAnnotations.read(*find_split(out, "train"))
    assert list(train.categories.names) == ["cat", "dog"] and train.empty().tolist() == [False, True]
    truth = json.loads((out / "annotations" / "instances_train.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    boxes = {names[thing["category_id"]]: thing["bbox"] for thing in truth["annotations"]}
    assert boxes == {"dog": [10, 5, 20, 30], "cat": [0, 0, 60, 40]}
    val = CocoAnnotations.read(*find_split(out, "val"))
    assert [str(name) for name in val.file_names] == ["b.jpg"]
    assert read_image(val.folder / "b.jpg", size=(40, 60)).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "ImageSets/Main/test.txt").unlink(), "the lists there: trainval"),
        (lambda root: (root / "ImageSets/Main/test.txt").write_text("\n"), "lists no image"),
        (lambda root: (root / "ImageSets/Main/test.txt").write_text("a\n"), "1 images are in trainval and in test"),
        (lambda root: (root / "Annotations/b.xml").unlink(), r"1 listed images have no annotation \(b.xml"),
        (lambda root: (root / "JPEGImages/b.jpg").unlink(), "b.jpg: an annotation names it"),
        (lambda root: (root / "Annotations/b.xml").write_text("<annotation>"), "annotations cannot be read"),
        (
            lambda root: (root / "Annotations/d.xml").write_text((root / "Annotations/b.xml").read_text()),
            "two annotations name the image b.jpg",
        ),
        (
            lambda root: (root / "Annotations/b.xml").write_text(
                "<annotation><filename>../b.jpg</filename></annotation>"
            ),
            r"an annotation names the image \.\./b\.jpg",
        ),
    ],
)
def test_what_is_refused_leaves_nothing(voc: Path, tmp_path: Path, spoil, words: str):
    spoil(voc)
    with pytest.raises(UserError, match=words):
        convert(voc, tmp_path / "coco", train="trainval", val="test")
    assert not (tmp_path / "coco").exists() and not list(tmp_path.glob(".coco.*.partial"))


def test_an_existing_folder_is_refused_in_one_line(voc: Path, tmp_path: Path, script):
    (tmp_path / "coco").mkdir()
    done = script("voc_to_coco.py", "--data", voc, "--output", "coco", cwd=tmp_path)
    assert done.returncode == 2 and "exists already" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs the BCCD sample in ../shared/data")
def test_real_blood_cells(tmp_path: Path):
    out = convert(BCCD, tmp_path / "bccd", train="trainval", val="test")
    counts = {}
    for split in ("train", "val"):
        data = CocoAnnotations.read(*find_split(out, split), bad_boxes="drop")
        counts[split] = len(data)
    assert counts == {"train": 292, "val": 72}
    assert list(data.categories.names) == ["Platelets", "RBC", "WBC"]
