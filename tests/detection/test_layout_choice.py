"""Tests the layout of a folder, the content of a YAML file, and how names and shapes of annotation tools are read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
from conftest import ROOT, write_classes
from tool_exports import (
    EXPORTS,
    OBJECTS,
    SIZE,
    cvat_xml,
    label_lines,
    label_studio_tasks,
    picture,
    pictures,
    text,
    write_coco,
    write_labels,
    write_xml,
)

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.convert import WRITERS, convert
from detection.data.folders import layout_of, open_split, read_annotations, splits_of
from detection.data.layouts.known import BUILT_IN
from detection.data.layouts.yolo_places import NO_LABELS
from detection.data.truth import Truth
from detection.options import DetectionDataOptions
from segmentation.data.convert import MapLayout
from tools import check_data, convert_data, train_cls, train_det


def made(tmp_path: Path, name: str) -> Path:
    """Write an export and return its folder."""
    EXPORTS[name][1](tmp_path / "set")
    return tmp_path / "set"


def read(root: Path, split: str = "train", **options: Any) -> CocoAnnotations:
    return CocoAnnotations.of(open_split(root, split, **options))


# --- the choice ---


def test_two_layouts_are_named_and_the_user_chooses(tmp_path: Path):
    root = made(tmp_path, "roboflow-yolo")
    write_coco(root / "annotations" / "instances_train.json")
    with pytest.raises(UserError, match="has the layouts coco and yolo; choose one of them with --layout coco"):
        open_split(root, "train")
    assert len(read(root, layout="yolo")) == 2
    options = DetectionDataOptions(data=str(root), layout="coco")
    assert read_annotations(options, "train").path.name == "instances_train.json"
    with pytest.raises(UserError, match=r"voc: .* lacks a folder Annotations and a folder ImageSets/Main; name"):
        open_split(root, "train", layout="voc")
    with pytest.raises(UserError, match="unknown layout 'yolov9': did you mean yolo"):
        open_split(root, "train", layout="yolov9")


def test_the_three_nearest_layouts_and_what_they_lack_are_named(tmp_path: Path):
    root = made(tmp_path, "labelimg-yolo")
    (root / "classes.txt").unlink()
    with pytest.raises(UserError) as error:
        open_split(root, "train")
    assert str(error.value).count("(lacks ") == 3 and "\n" not in str(error.value)
    assert "images with *.txt in one folder, and obj.names or classes.txt (lacks obj.names, classes.txt" in str(
        error.value
    )


def captions(root: Path) -> None:
    """Write images with captions, and a list of class names."""
    pictures(root)
    text(root / "a.txt", "a dog on the grass\n")
    text(root / "classes.txt", "cat\ndog\n")


def label_maps(root: Path) -> None:
    for split in ("train", "val"):
        picture(root / "images" / split / "a.jpg")
        picture(root / "labels" / split / "a.png")
    text(root / "classes.txt", "cat\ndog\n")


def classes_with_table(root: Path) -> None:
    pictures(root / "images")
    text(root / "labels.csv", "filename,class\na.jpg,dog\nb.png,cat\n")


@pytest.mark.parametrize(
    "write", [captions, label_maps, classes_with_table, lambda root: write_classes(root, count=1), pictures]
)
def test_data_of_other_tasks_is_not_taken_for_boxes(tmp_path: Path, write: Callable[[Path], None]):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set")
    assert layout_of(tmp_path / "set") is None


def test_two_sets_in_vocdevkit_must_be_named(tmp_path: Path):
    root = made(tmp_path, "vocdevkit")
    assert splits_of(root) == splits_of(root / "VOCdevkit") == splits_of(root / "VOCdevkit/VOC2007") == ["train", "val"]
    write_xml(root / "VOCdevkit/VOC2012/Annotations")
    text(root / "VOCdevkit/VOC2012/ImageSets/Main/train.txt", "a\n")
    with pytest.raises(UserError, match=r"holds 2 data sets of VOC; name one of them \(.*VOC2007, .*VOC2012\)"):
        open_split(root, "train")


# --- YAML ---


def folders(root: Path, *splits: str) -> None:
    for split in splits:
        pictures(root / "images" / split)
        write_labels(root / "labels" / split)


NAMES = "names: [cat, dog]\n"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("coco8.yaml", "path: coco8\ntrain: images/one\n"),
        ("coco8.yaml", "path: {root}/coco8\ntrain: images/one\n"),
        ("coco8.yaml", "train: {root}/coco8/images/one\n"),
        ("coco8.yml", "train: coco8/images/one/\n"),
        ("configs/coco8.yaml", "path: ../coco8\ntrain: images/one\n"),
        ("coco8/any name.yaml", "train: [images/one]\n"),
        ("coco8/other.yaml", "path: /home/me/coco8\ntrain: ./images/one\n"),
        ("coco8/other.yaml", "train: /home/me/coco8/images/one\n"),
        ("coco8/other.yaml", "train: C:\\Users\\me\\coco8\\images\\one\n"),
        ("coco8/other.yaml", "train: ../images/one\n"),
        ("coco8/other.yaml", "path: datasets/coco8\ntrain: images/one\n"),
    ],
)
def test_a_yaml_file_names_the_data_set(tmp_path: Path, file: str, content: str):
    folders(tmp_path / "coco8", "one", "two")
    text(tmp_path / file, content.format(root=tmp_path) + NAMES)
    data = read(tmp_path / file)
    assert data.folder == tmp_path / "coco8" / "images" / "one" and len(data.boxes) == 3
    assert ("me" in content or "datasets" in content) == any("replaced" in note for note in data.notes), data.notes


def test_a_split_may_have_several_folders_and_lists(tmp_path: Path):
    folders(tmp_path, "one", "two", "three")
    text(tmp_path / "more.txt", "./images/three/a.jpg\n")
    text(tmp_path / "data.yaml", "train: [images/one, images/two, more.txt]\nval: images/three\n" + NAMES)
    data = read(tmp_path)
    assert data.file_names.tolist() == ["one/a.jpg", "one/b.png", "two/a.jpg", "two/b.png", "three/a.jpg"]
    assert splits_of(tmp_path) == ["train", "val"] and len(data.boxes) == 8


def test_labels_may_lie_beside_the_images_of_a_yaml_file_in_a_folder_called_images(tmp_path: Path):
    root = tmp_path / "images" / "set"
    pictures(root / "one")
    write_labels(root / "one")
    text(root / "data.yaml", "train: one\n" + NAMES)
    assert len(read(root).boxes) == 3


def test_folders_count_where_the_yaml_file_names_no_splits(tmp_path: Path):
    folders(tmp_path, "train", "dev")
    text(tmp_path / "data.yaml", NAMES)
    assert splits_of(tmp_path) == ["dev", "train"] and len(read(tmp_path, "val")) == 2


# --- names ---


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("images/images/a.jpg", True),
        ("images\\a.jpg", True),
        ("my%20set/a.jpg", True),
        ("/data/local-files/?d=my%20set/a.jpg", True),
        ("https://server/bucket/a.jpg?token=1", False),
        ("a.png", True),
        ("A.JPEG", True),
        ("c.jpg", False),
    ],
)
def test_names_are_repaired_where_one_file_fits(tmp_path: Path, name: str, fits: bool):
    write_coco(tmp_path / "labels.json", names={"a.jpg": name})
    pictures(tmp_path / "data")
    if not fits and not name.startswith("https"):
        with pytest.raises(UserError, match="is not in"):
            read(tmp_path)
        return
    data = read(tmp_path)
    assert data.file_names.tolist() == ["a.jpg", "b.png"]
    ((note, count),) = data.notes.items()
    assert count == 1 and f"{name} -> a.jpg" in note


def test_a_name_that_fits_several_files_is_refused(tmp_path: Path):
    root = made(tmp_path, "cvat-images")
    for folder in ("one", "two"):
        picture(root / "images" / folder / "a.jpg")
    (root / "images" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"image 'a.jpg' fits 2 files \(one/a.jpg, two/a.jpg\) in"):
        read(root)


def test_of_several_files_of_one_name_the_one_in_the_named_folder_is_read(tmp_path: Path):
    """CVAT keeps the images of a project's tasks in images/SUBSET/ but names them without the subset."""
    root = made(tmp_path, "cvat-images")
    for task in ("one", "two"):
        pictures(root / "images" / "default" / task)
    (root / "images" / "a.jpg").unlink()
    (root / "images" / "b.png").unlink()
    content = (root / "annotations.xml").read_text()
    (root / "annotations.xml").write_text(
        content.replace('name="a.jpg"', 'name="two/a.jpg"').replace("b.png", "one/b.jpg")
    )
    assert read(root).file_names.tolist() == ["default/two/a.jpg", "default/one/b.png"]


# --- what is left out ---


def unlabelled_task(root: Path) -> None:
    tasks = label_studio_tasks()
    tasks[1]["annotations"] = []
    text(root / "tasks.json", json.dumps(tasks))
    pictures(root)


UNLABELLED = {
    "labelme": (EXPORTS["labelme"][1], "b.json", "images without a JSON file, which are left out"),
    "voc-xml": (EXPORTS["labelimg-voc"][1], "b.xml", "images without an XML file, which are left out"),
    "darknet": (EXPORTS["labelimg-yolo"][1], "b.txt", "images without a label file, which are left out"),
    "label-studio": (unlabelled_task, None, "tasks without an annotation, which are left out"),
}


@pytest.mark.parametrize("layout", UNLABELLED)
def test_images_that_nobody_labelled_are_not_negatives(tmp_path: Path, layout: str):
    write, file, note = UNLABELLED[layout]
    write(tmp_path)
    if file:
        (tmp_path / file).unlink()
    data = read(tmp_path)
    assert data.file_names.tolist() == ["a.jpg"] and data.notes[note] == 1


def test_notes_beside_label_files_are_left_out_and_counted(tmp_path: Path):
    EXPORTS["labelimg-yolo"][1](tmp_path)
    text(tmp_path / "README.txt", "Labelled in 2024\n")
    assert read(tmp_path).notes[NO_LABELS] == 1
    text(tmp_path / "c.txt", "0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"c\.txt: there is no image of this name"):
        read(tmp_path)


def test_the_unused_super_category_of_roboflow_is_left_out(tmp_path: Path):
    root = made(tmp_path, "roboflow-coco")
    data = read(root)
    assert data.categories.names == ("cat", "dog") and data.notes == {"unused super-category animals left out": 1}
    path = root / "valid" / "_annotations.coco.json"
    path.write_text(path.read_text().replace('"category_id": 1', '"category_id": 0'))
    assert read(root).categories.names == ("animals", "cat", "dog")  # the validation split uses it


# --- shapes ---


def boxes_of(truth: Truth) -> list[list[float]]:
    return [[round(side, 6) for side in record["bbox"]] for record in truth.data["annotations"]]


def test_shapes_of_cvat(tmp_path: Path):
    """A box of 20x10 around (20, 20) turned by 90 degrees is 10x20; the mask is two rows of a box of 3x2 at (5, 6)."""
    shapes = (
        '<box label="dog" xtl="10" ytl="15" xbr="30" ybr="25" rotation="90"/>'
        '<polygon label="cat" points="1,2;9,2;9,8"/>'
        '<ellipse label="cat" cx="20" cy="20" rx="5" ry="4"/><points label="dog" points="1,1"/>'
        '<mask label="dog" rle="1, 2, 3" left="5" top="6" width="3" height="2"/><tag label="cat"/>'
    )
    text(
        tmp_path / "annotations.xml",
        cvat_xml().replace('width="60" height="40">', f'width="60" height="40">{shapes}', 1),
    )
    pictures(tmp_path / "images")
    truth = open_split(tmp_path, "train")
    assert boxes_of(truth)[:4] == [[15, 10, 10, 20], [1, 2, 8, 6], [15, 16, 10, 8], [5, 6, 3, 2]]
    outlines = [record.get("segmentation") for record in truth.data["annotations"][:4]]
    assert outlines[1] == [[1, 2, 9, 2, 9, 8]]
    assert truth.data["annotations"][2]["area"] == pytest.approx(np.pi * 20, rel=0.002)  # 72 corners
    # Columns 6 and 7 of row 6: after 6 columns of 40 rows and 6 rows, one pixel; after 39 more, one pixel.
    assert outlines[3] == {"size": [40, 60], "counts": [246, 1, 39, 1, 2113]}
    assert truth.data["annotations"][1]["area"] == 24 and truth.data["annotations"][3]["area"] == 2
    assert truth.notes == {"points, lines and other shapes without a box, which are left out": 1}


def test_shapes_of_label_studio(tmp_path: Path):
    """A box of 20x10 at (30, 10), turned clockwise by 90 degrees around that corner, lies left of and below it."""
    tasks = label_studio_tasks()
    sides = {"original_width": 60, "original_height": 40}
    corner = {"x": 50, "y": 25, "width": 100 / 3, "height": 25, "rotation": 90}
    points = {"points": [[10, 10], [50, 10], [50, 50]], "polygonlabels": ["cat"]}
    ellipse = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 10, "rotation": 0, "ellipselabels": ["dog"]}
    tasks[0]["annotations"][0]["result"] = [
        {**sides, "id": "1", "type": "rectangle", "value": corner},
        {**sides, "id": "1", "type": "labels", "value": {**corner, "labels": ["dog"]}},
        {**sides, "id": "2", "type": "polygonlabels", "value": points},
        {**sides, "id": "3", "type": "ellipselabels", "value": ellipse},
        {
            **sides,
            "id": "4",
            "type": "keypointlabels",
            "value": {"x": 1, "y": 1, "width": 1, "keypointlabels": ["dog"]},
        },
        {"id": "5", "type": "choices", "value": {"choices": ["good"]}},
        {**sides, "id": "6", "type": "rectanglelabels", "value": {**corner, "rectanglelabels": []}},
    ]
    tasks[0]["annotations"].append({"result": [], "was_cancelled": True})
    tasks[0]["annotations"].append({"result": []})
    text(tmp_path / "tasks.json", json.dumps(tasks))
    pictures(tmp_path)
    truth = open_split(tmp_path, "train")
    assert boxes_of(truth)[:3] == [[20, 10, 10, 20], [6, 4, 24, 16], [24, 16, 12, 8]]
    assert truth.notes == {
        "further annotations of the same task, which are left out": 1,
        "objects without a class, which are left out": 1,
        "points, lines and other shapes without a box, which are left out": 1,
        "turned boxes replaced by the box around them": 1,
    }


def test_shapes_of_labelme_and_via(tmp_path: Path):
    circle = {"label": "dog", "points": [[20, 20], [23, 24]], "shape_type": "circle"}
    polygon = {"label": "cat", "points": [[1, 2], [9, 2], [9, 8]]}
    line = {"label": "cat", "points": [[1, 2], [9, 2]], "shape_type": "line"}
    content = {"version": "4.0", "shapes": [circle, polygon, line], "imagePath": "a.jpg", "imageData": None}
    text(tmp_path / "one" / "a.json", json.dumps(content))
    pictures(tmp_path / "one")
    truth = open_split(tmp_path / "one", "train")
    assert boxes_of(truth) == [[15, 15, 10, 10], [1, 2, 8, 6]] and sum(truth.notes.values()) == 2
    shapes = [
        {"name": "circle", "cx": 20, "cy": 20, "r": 5},
        {"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 4, "theta": 0},
        {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [2, 2, 8]},
        {"name": "point", "cx": 1, "cy": 1},
    ]
    regions = [{"shape_attributes": shape, "region_attributes": {"kind": {"2": True}}} for shape in shapes]
    images = {"a.jpg9": {"filename": "a.jpg", "size": 9, "regions": regions, "file_attributes": {}}}
    attributes = {"region": {"kind": {"type": "checkbox", "options": {"1": "cat", "2": "dog"}}}}
    text(tmp_path / "two" / "p.json", json.dumps({"_via_img_metadata": images, "_via_attributes": attributes}))
    pictures(tmp_path / "two")
    truth = open_split(tmp_path / "two", "train")
    assert boxes_of(truth) == [[15, 15, 10, 10], [15, 16, 10, 8], [1, 2, 8, 6]]
    assert [record["name"] for record in truth.data["categories"]] == ["dog"]
    # Turned by 90 degrees, which VIA writes in radians, the ellipse is 8 pixels wide.
    shapes[1]["theta"] = np.pi / 2
    text(tmp_path / "two" / "p.json", json.dumps({"_via_img_metadata": images, "_via_attributes": attributes}))
    truth = open_split(tmp_path / "two", "train")
    assert boxes_of(truth)[1] == [16, 15, 8, 10]
    data = CocoAnnotations.of(truth, without_mask="error")
    assert data.masks is not None and data.strips_of(0)[:, 0].max() == 2
    for region in regions:
        region["region_attributes"] = {}
    text(tmp_path / "two" / "p.json", json.dumps({"_via_img_metadata": images}))
    truth = open_split(tmp_path / "two", "train")
    assert truth.notes["regions without attributes, read as class object"] == 3


def test_a_list_counts_images_without_labels_as_negatives(tmp_path: Path):
    root = made(tmp_path, "cvat-yolo")
    (root / "obj_train_data" / "b.txt").unlink()
    data = read(root)
    assert data.file_names.tolist() == ["a.jpg", "b.png"] and data.empty().tolist() == [False, True]
    assert len(OBJECTS["a.jpg"]) == len(data.boxes) == label_lines("a.jpg").count("\n")


# --- the page ---


def table() -> dict[str, list[str]]:
    """Return the cells of the table of layouts in docs/DATA.md: read, check, convert to, masks, and splits."""
    page = (ROOT / "docs" / "DATA.md").read_text(encoding="utf-8")
    rows = (line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `") and line.count("|") == 8)
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells[2:]] for cells in rows}


def test_the_page_lists_the_layouts_and_what_can_be_written():
    assert list(table()) == sorted(BUILT_IN, key=list(table()).index) and set(table()) == set(BUILT_IN)
    assert {name: cells[2] == "yes" for name, cells in table().items()} == {n: n in WRITERS for n in BUILT_IN}
    assert {*WRITERS, *get_args(MapLayout)} == set(get_args(convert_data.WrittenLayout))
    assert {cells[0] + cells[1] for cells in table().values()} == {"yesyes"}  # tests/detection/test_exports.py


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_masks_are_read_from_the_layouts_that_the_page_names(tmp_path: Path, layout: str):
    root = made(tmp_path, "fiftyone-coco")
    content = json.loads((root / "labels.json").read_text())
    for record in content["annotations"]:
        x, y, width, height = record["bbox"]
        record["segmentation"] = [[x, y, x + width, y, x + width, y + height]]
    (root / "labels.json").write_text(json.dumps(content))
    convert(root, tmp_path / "new", to=layout, splits={"train": "train"}, masks=True)
    truth = open_split(tmp_path / "new", "train", masks=True)
    if table()[layout][3] == "yes":
        data = CocoAnnotations.of(truth, without_mask="error")
        assert data.masks is not None and len(data.masks.ends) == 3 + 1
    else:
        with pytest.raises(UserError, match="mask"):
            CocoAnnotations.of(truth, without_mask="error")


@pytest.mark.parametrize(
    "name", ["roboflow-voc", "via-regions-of-splits", "roboflow-tensorflow", "labelme", "cvat-images"]
)
def test_names_that_differ_in_capitals_between_splits_are_one_class(tmp_path: Path, name: str):
    """A split that uses both spellings means two classes."""
    EXPORTS[name][1](tmp_path / "one")
    root, split = tmp_path / "one", "val" if (tmp_path / "one" / "val").is_dir() else "valid"
    if not (root / split).is_dir():  # exports without splits
        root = tmp_path / "set"
        for each in ("train", split):
            shutil.copytree(tmp_path / "one", root / each)
    files = [path for suffix in ("xml", "json", "csv") for path in sorted((root / split).glob(f"*.{suffix}"))]
    for file in files:
        file.write_text(re.sub(r"\bdog\b", "Dog", file.read_text()))
    for each in ("train", split):
        data = read(root, each)
        assert data.categories.names == ("cat", "dog") and sorted(data.labels.tolist()) == [1, 2, 2]
    assert data.notes["names of classes that differ in capitals (Dog -> dog)"] == 2
    for file in files:
        file.write_text(re.sub(r"\bcat\b", "dog", file.read_text()))
    assert set(read(root, "train").categories.names) == {"Dog", "cat", "dog"}


def write_dogs(path: Path, *names: str) -> None:
    """Write an XML file of VOC with an object of each class."""
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    things = "".join(f"<object><name>{name}</name>{box}</object>" for name in names)
    text(path, f"<annotation><filename>{path.stem}.jpg</filename>{things}</annotation>")


def listed_voc(root: Path, **names: str) -> Path:
    """VOC with lists: an image of one object in each split, whose class is given."""
    for split, name in names.items():
        write_dogs(root / "Annotations" / f"{split}.xml", name)
        picture(root / "JPEGImages" / f"{split}.jpg")
        text(root / "ImageSets" / "Main" / f"{split}.txt", f"{split}\n")
    text(root / "ImageSets" / "Main" / "trainval.txt", "train\nval\n")
    return root


def test_lists_of_voc_are_splits_whose_names_may_differ_in_capitals(tmp_path: Path):
    root = listed_voc(tmp_path / "one", train="dog", val="Dog", test="cat")
    for split in ("train", "val", "trainval"):
        assert read(root, split).categories.names == ("cat", "dog")
    assert read(root, "val").notes["names of classes that differ in capitals (Dog -> dog)"] == 1
    # The list of classes decides on the spelling; without one, a split with both spellings means two classes.
    text(root / "classes.txt", "cat\nDog\n")
    assert read(root, "train").categories.names == ("cat", "Dog")
    (root / "classes.txt").unlink()
    write_dogs(root / "Annotations" / "val.xml", "dog", "Dog")
    assert read(root, "train").categories.names == ("Dog", "cat", "dog")


def test_labels_of_open_images_without_titles_may_differ_in_capitals(tmp_path: Path):
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax"
    for split, name in (("train", "dog"), ("validation", "Dog")):
        text(tmp_path / f"{split}-annotations-bbox.csv", f"{header}\n{split},xclick,{name},1,0.1,0.5,0.1,0.5\n")
        picture(tmp_path / "images" / f"{split}.jpg")
    for split in ("train", "val"):
        assert read(tmp_path, split).categories.names == ("dog",)


@pytest.mark.parametrize("tool", ["labelme", "labelimg"])
@pytest.mark.parametrize("places", [("scene 1", "scene 2/deep"), (".", "scene 2")])
def test_annotations_in_folders_of_images_are_read(tmp_path: Path, tool: str, places: tuple[str, str]):
    """The images of both folders have the same name, and the annotations name them without the folder."""
    for number, place in enumerate(places):
        picture(tmp_path / place / "a b.jpg", number)
        if tool == "labelimg":
            write_dogs(tmp_path / place / "a b.xml", "dog")
            continue
        shape = {"label": "dog", "points": [[1, 2], [30, 35]], "shape_type": "rectangle"}
        content = {"shapes": [shape], "imagePath": "a b.jpg", "imageHeight": SIZE[1], "imageWidth": SIZE[0]}
        text(tmp_path / place / "a b.json", json.dumps(content))
    data = read(tmp_path)
    assert {str(Path(name).parent) for name in data.file_names.tolist()} == set(places)
    assert data.labels.tolist() == [1, 1] and len({data.folder / name for name in data.file_names}) == 2
    assert (data.folder / str(data.file_names[0])).is_file() and not data.notes


def test_folders_of_splits_are_no_folders_of_images(tmp_path: Path):
    for name in ("trainset", "extra"):
        picture(tmp_path / name / "a.jpg")
        write_dogs(tmp_path / name / "a.xml", "dog")
    with pytest.raises(UserError, match="unknown layout"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (train_det, "is an annotation file, .*; name the file with --annotations, and .* with --images"),
        (check_data, "is an annotation file, .*; name the file with --annotations, and .* with --images"),
        (train_cls, "is a JSON file, which holds no classes .* reads annotations of boxes with --annotations"),
    ],
)
def test_an_annotation_file_is_not_taken_for_a_data_set(command: ModuleType, said: str, tmp_path: Path):
    file = tmp_path / "instances_train.json"
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match=f"--data {file}: {said}"):
        command.main(["--data", str(file)])
