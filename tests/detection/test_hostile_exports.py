"""Mutants of the exports of annotation tools: each is read with a defined result, or refused with a UserError."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import SCALE, mutants, require_one_line
from tool_exports import EXPORTS, picture, text

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import open_split
from tools import check_data

MUTANTS = 12
# Export -> the file to break, or the first of its kind.
FILES = {
    "roboflow-coco": "train/_annotations.coco.json",
    "fiftyone-coco": "labels.json",
    "labelimg-voc": "a.xml",
    "roboflow-yolo": "data.yaml",
    "ultralytics-lists": "train.txt",
    "cvat-yolo": "obj.data",
    "labelimg-yolo": "a.txt",
    "cvat-images": "annotations.xml",
    "cvat-video": "annotations.xml",
    "createml-labelimg": "a.json",
    "label-studio-json": "project-1-at-2024-01-01-00-00-abcdef01.json",
    "label-studio-json-min": "project-1.json",
    "label-studio-brush": "project-2.json",
    "label-studio-brush-png": "tasks.json",
    "labelme": "a.json",
    "labelme-masks": "b.json",
    "via-project": "via_project_1Jan2024_10h0m.json",
    "via-3": "via_project_1Jan2026.json",
    "via-csv": "via_export_csv.csv",
    "open-images": "train-annotations-bbox.csv",
    "roboflow-tensorflow": "train/_annotations.csv",
    "keras-retinanet": "train_annotations.csv",
    "automl-csv": "import.csv",
    "hugging-face-named": "metadata.jsonl",
    "supervisely": "train/ann/a.jpg.json",
    "supervisely-bitmaps": "ds1/ann/a.jpg.json",
}


@pytest.mark.parametrize("name", FILES)
def test_mutants_are_read_or_refused_with_one_line(name: str, tmp_path: Path):
    """The check does not fail where training refuses, and no box leaves its image."""
    EXPORTS[name][1](tmp_path / "set")
    path, layout = tmp_path / "set" / FILES[name], EXPORTS[name][0]
    read = 0
    for _ in mutants(path, MUTANTS):
        try:
            data = CocoAnnotations.of(open_split(tmp_path / "set", "train", layout=layout))
            assert np.isfinite(data.boxes).all() and (data.boxes >= 0).all() and (data.labels >= 1).all()
            limits = np.repeat(data.sizes[:, ::-1], np.diff(data.offsets), axis=0)
            assert (data.boxes[:, 2:] <= limits).all() and all(
                data.source and (data.folder / n).exists() for n in data.file_names
            )
            assert all((tmp_path / "set") in (data.folder / n).resolve().parents for n in data.file_names)
            read += 1
        except UserError as error:
            require_one_line(error, tmp_path)
            with contextlib.suppress(UserError):
                options = check_data.CheckOptions(data=str(tmp_path / "set"), layout=layout, decode=False)
                assert check_data.check(options).problems
    assert read < MUTANTS * SCALE


BOMB = "<!DOCTYPE a [<!ENTITY l0 'lol'>" + "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
YAML_BOMB = "a0: &a0 [cat, dog]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 9))


def swap(file: str, before: str, after: str) -> Callable[[Path], None]:
    """Return a function that replaces a text in a file of a data set."""

    def apply(root: Path) -> None:
        content = (root / file).read_text()
        assert before in content
        (root / file).write_text(content.replace(before, after))

    return apply


def write(file: str, content: str) -> Callable[[Path], None]:
    """Return a function that replaces a file of a data set."""
    return lambda root: text(root / file, content)


def embed(root: Path) -> None:
    """Leave the images to the JSON files, as LabelMe does by default."""
    for path in [*root.glob("*.jpg"), *root.glob("*.png")]:
        swap(f"{path.stem}.json", '"imageData": null', '"imageData": "/9j/4AAQ"')(root)
        path.unlink()


def gap(root: Path) -> None:
    """Leave out a frame between two keyframes of a track."""
    swap("annotations.xml", 'frame="1" keyframe="1" outside="1"', 'frame="2" keyframe="1" outside="1"')(root)
    swap("annotations.xml", "<stop_frame>1<", "<stop_frame>2<")(root)
    picture(root / "images" / "c.png")


def enlarge(root: Path) -> None:
    """Declare a size of an image of which no mask fits into memory."""
    swap("b.json", '"imageHeight": 40', '"imageHeight": 1000000')(root)
    swap("b.json", '"imageWidth": 60', '"imageWidth": 1000000')(root)


TASKS, ROWS = FILES["label-studio-json"], FILES["open-images"]
# Export, what is done to it, and what the error says.
FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "xml bomb": (
        "cvat-images",
        swap("annotations.xml", "<annotations>", BOMB + "]><annotations>"),
        r"annotations.xml: declares a document type",
    ),
    "yaml bomb": ("roboflow-yolo", swap("data.yaml", "nc: 2", YAML_BOMB), r"is not valid YAML \(uses the alias"),
    "images and tracks": (
        "cvat-images",
        swap("annotations.xml", "</annotations>", "<track /></annotations>"),
        "holds bo",
    ),
    "video without frames": (
        "cvat-video",
        lambda root: (root / "images/b.png").unlink(),
        "holds tracks of 2 frames, but",
    ),
    "frame": ("cvat-video", swap("annotations.xml", 'frame="1"', 'frame="I"'), "track 0: frame 'I' is not a whole"),
    "gap": ("cvat-video", gap, "track 1 has no shape in frame 1, between frames 0 and 2; export every frame"),
    "coordinates": ("createml-labelimg", swap("a.json", '"x": 20.0', '"x": null'), "a.json: annotation 1: its box"),
    "class lists": ("darknet-scenes", write("scene1/classes.txt", "dog\ncat\n"), "lists other classes than .*scene0"),
    "labels' lists": ("labelimg-yolo-in-labels", write("labels/val/classes.txt", "dog\n"), "lists other classes than"),
    "number of a shape": ("via-3", swap("via_project_1Jan2026.json", '"xy": [2,', '"xy": [77,'), "region 1: is no 77"),
    "outside": ("cvat-images", swap("annotations.xml", 'name="a.jpg"', 'name="/etc/passwd"'), "fits no file in"),
    "percentage": ("label-studio-json", swap(TASKS, '"x": 0.0', '"x": "much"'), "is not four numbers"),
    "no task": (
        "label-studio-json",
        write(TASKS, '[{"id": 1, "annotations": [], "data": {}}, 4]'),
        "is not a list of tasks",
    ),
    "points": ("labelme", swap("a.json", "10,", "null,"), r"a.json: shape 1: its points \[\[30, 35\], \[None, 5\]\]"),
    "no class": ("labelme", swap("a.json", '"label": "dog"', '"label": ""'), "a.json: shape 1: has no class; name"),
    "image inside": (
        "labelme",
        embed,
        r"a.json: its image is only inside the file .*; write it beside the file as 'a.jpg',",
    ),
    "huge": ("labelme-masks", enlarge, "too large for a mask"),
    "huge bitmap": (
        "supervisely-bitmaps",
        swap("ds1/ann/b.png.json", '{"height": 40, "width": 60}', '{"height": 1000000, "width": 1000000}'),
        "b.png.json: object 1: its image of 1000000x1000000 pixels is too large for a mask; fix the object",
    ),
    "two files": ("labelme", swap("b.json", "b.png", "a.jpg"), r"b.json: names the image a.jpg again"),
    "attributes": (
        "via-project",
        swap(FILES["via-project"], '{"class": ', '{"age": "3", "size": '),
        "its regions have the attributes age, size; rename",
    ),
    "region": ("via-csv", swap(FILES["via-csv"], '""x"": 10', '""x"": null'), "region 1: is no rect"),
    "cell": (
        "via-csv",
        swap(FILES["via-csv"], '{""name""', "{name"),
        "line 2: holds no JSON in region_shape",
    ),
    "cells": ("open-images", swap(ROWS, ",0,0,0,0,0", ",0,0,0,0"), "line 2: has 12 cells, but the header has 13"),
    "pixels": ("open-images", swap(ROWS, ",1,0.16", ",1,16"), "line 2: its box is not four fractions"),
    "absent": ("roboflow-tensorflow", lambda root: (root / "train/a.jpg").unlink(), "line 2: image 'a.jpg' fits no"),
    "number": ("roboflow-tensorflow", swap(FILES["roboflow-tensorflow"], ",10,5,", ",ten,5,"), "line 2: its box"),
    "class": ("labelimg-yolo", swap("a.txt", "1 0.3", "7 0.3"), "class 7 is not one of the 2 class numbers"),
    "gone": ("roboflow-yolo", swap("data.yaml", "train/images", "gone"), "leads to no folder or list; fix `train`"),
    "empty list": ("ultralytics-lists", write("train.txt", "\n"), "lists no image that exists"),
    "empty file": (
        "cvat-images",
        write("annotations.xml", "<annotations><version>1.1</version></annotations>"),
        "names no image that can be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_with_the_place_and_the_way_out(fault: str, tmp_path: Path):
    name, spoil, words = FAULTS[fault]
    EXPORTS[name][1](tmp_path / "set")
    spoil(tmp_path / "set")
    with pytest.raises(UserError, match=words) as error:
        CocoAnnotations.of(open_split(tmp_path / "set", "train", layout=EXPORTS[name][0]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in FILES if name != "cvat-yolo"])
def test_byte_order_marks_and_line_ends_of_windows_change_nothing(name: str, tmp_path: Path):
    EXPORTS[name][1](tmp_path / "set")
    before = CocoAnnotations.of(open_split(tmp_path / "set", "train"))
    path = tmp_path / "set" / FILES[name]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    after = CocoAnnotations.of(open_split(tmp_path / "set", "train"))
    assert after.boxes.tolist() == before.boxes.tolist() and after.file_names.tolist() == before.file_names.tolist()
