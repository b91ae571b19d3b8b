"""Own data with label maps: folders without splits, maps beside images, and exports of CVAT, LabelMe, Label Studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_exports import (
    HALF,
    LABEL_EXPORTS,
    RIGHT,
    beside,
    brush,
    labelme_file,
    mask_of_labelme,
    photo,
    save,
    shape,
    task,
)
from tool_exports import litter

from backbones.common.brush import decode_brush
from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import open_split
from detection.runs import bitmaps
from segmentation.data.coco import CocoLabels
from segmentation.data.dataset import LabelSource
from segmentation.data.folders import has_split, open_source
from segmentation.options import SegmentationDataOptions
from tools import check_data


def opened(root: Path, split: str = "train", **options: Any) -> LabelSource:
    name = "train" if split == "train" else "val"
    return open_source(root, name, SegmentationDataOptions(**options))


@pytest.mark.parametrize("write", LABEL_EXPORTS.values(), ids=LABEL_EXPORTS)
def test_an_export_opens_as_it_is(tmp_path: Path, write: Any):
    write(tmp_path / "data")
    source = opened(tmp_path / "data")
    assert (len(source), source.classes.names) == (2, ("background", "foreground"))
    assert [source.file(row).stem for row in range(2)] == ["a b", "c"]
    for row in range(2):
        assert source.size(row) == (4, 6) and source.image(row).shape == (4, 6, 3)
        assert np.array_equal(source.labels(row, (4, 6)), HALF)
    assert len(opened(tmp_path / "data", train_split="all")) == 2
    inner = tmp_path / "download" / "main" / "data"
    inner.parent.mkdir(parents=True)
    write(inner)
    assert opened(tmp_path / "download").file(0).is_relative_to(inner) and not has_split(tmp_path / "download", "val")
    litter(tmp_path / "data")
    littered = opened(tmp_path / "data")
    assert [littered.file(row) for row in range(len(littered))] == [source.file(row) for row in range(2)]
    assert (littered.passed_over, littered.notes) == (source.passed_over, source.notes)
    with pytest.raises(UserError, match=r"data: has no split val, because it is not divided .* --val-fraction"):
        opened(tmp_path / "data", "val")
    report = check_data.check(check_data.CheckOptions(data=str(tmp_path / "data"), truth="labels"))
    assert ("no such split", "val") in [(p.kind, p.split) for p in report.problems] and not report.wrong


def test_classes_of_label_maps_are_merged_renamed_and_chosen(tmp_path: Path):
    photo(tmp_path / "images" / "a.jpg")
    values = np.array([[0, 1, 2, 3, 1, 255]] * 4, np.uint8)
    save(tmp_path / "labels" / "a.png", values)
    (tmp_path / "classes.txt").write_text("road\ncar\nbus\nsky\n")
    cases: list[tuple[dict[str, str], tuple[str, ...], list[int]]] = [
        ({"merge_classes": "vehicle=car,bus"}, ("road", "vehicle", "sky"), [0, 1, 1, 2, 1, 255]),
        ({"classes": "car,bus"}, ("car", "bus"), [255, 0, 1, 255, 0, 255]),
        ({"drop_classes": "sky", "rename": "car=auto"}, ("road", "auto", "bus"), [0, 1, 2, 255, 1, 255]),
    ]
    for options, names, expected in cases:
        source = opened(tmp_path, **options)
        assert source.classes.names == names and source.labels(0, (4, 6))[0].tolist() == expected
        assert source.notes == (
            {} if "merge_classes" in options else {"classes left out as ignored pixels": 4 - len(names)}
        )
    (tmp_path / "classes.txt").write_text("background\ncar\nbus\nsky\n")
    source = opened(tmp_path, classes="bus")
    assert source.classes.names == ("background", "bus") and source.labels(0, (4, 6))[0].tolist() == [
        0,
        0,
        1,
        0,
        0,
        255,
    ]
    assert source.notes == {"classes left out as background": 2}
    for options, message in (
        ({"classes": "cat"}, "--classes: .* has no class cat; did you mean car|--classes.*cat"),
        ({"merge_classes": "all=background,car,bus,sky"}, "fewer than two classes are left"),
        ({"classes": "car", "drop_classes": "bus"}, "cannot be combined with --classes"),
    ):
        with pytest.raises(UserError, match=message):
            opened(tmp_path, **options)


def test_images_elsewhere_are_found_by_name_as_boxes_find_theirs(tmp_path: Path):
    """LabelMe's images in another folder, two images of one name in Label Studio, and COCO's names with a folder."""
    me, studio = tmp_path / "me", tmp_path / "studio"
    labelme_file(me / "json" / "a.json", [shape("cat", RIGHT)], imagePath="..\\photos\\a.jpg")
    (me / "json" / "a.jpg").unlink()
    photo(me / "photos" / "a.jpg")
    assert opened(me).file(0) == me / "photos" / "a.jpg"
    box = {"x": 0, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": ["cat"]}
    for folder in ("one", "two"):
        photo(studio / folder / "a.jpg")
    tasks = [task(1, f"/data/local-files/?d=set%2F{name}%2Fa.jpg", ("rectanglelabels", box)) for name in ("two", "one")]
    (studio / "export.json").write_text(json.dumps(tasks))
    source = opened(studio)
    assert {source.file(row) for row in range(2)} == {studio / name / "a.jpg" for name in ("one", "two")}
    outline = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3]], "iscrowd": 0}
    image = {"id": 1, "file_name": "elsewhere\\one\\a.jpg", "width": 6, "height": 4}
    lists = {"images": [image], "annotations": [outline], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "coco.json").write_text(json.dumps(lists))
    labels = CocoLabels(tmp_path / "coco.json", studio)
    assert labels.file(0) == studio / "one" / "a.jpg"
    replaced = "file names replaced by those of fitting files (elsewhere\\one\\a.jpg -> one/a.jpg)"
    assert labels.notes == {replaced: 1}


def test_splits_of_maps_beside_images_and_of_labelme_are_folders(tmp_path: Path):
    for split in ("train", "valid"):
        beside(tmp_path / "beside" / split)
        (tmp_path / "labelme" / split).mkdir(parents=True)
        labelme_file(tmp_path / "labelme" / split / "a.json", [shape(f"of {split}", RIGHT)])
    for split in ("train", "val"):
        assert len(opened(tmp_path / "beside", split)) == 2
        source = opened(tmp_path / "labelme", split)
        assert source.classes.names == ("background", "of train", "of valid")  # the same in both splits
        assert source.labels(0, (4, 6)).max() == (1 if split == "train" else 2)
    (tmp_path / "labelme" / "labels.txt").write_text("__ignore__\n_background_\nof valid\nof train\n")
    assert opened(tmp_path / "labelme").classes.names == ("background", "of valid", "of train")


def test_later_shapes_of_labelme_cover_earlier_ones_and_some_do_not_count(tmp_path: Path):
    shapes = [
        shape("cat", [[0, 0], [6, 0], [6, 4], [0, 4]]),
        shape("__ignore__", [[3, 0], [6, 4]], "rectangle"),
        shape("dog", [[1, 2], [2, 2]], "circle"),
        shape("dog", [[1, 2], [2, 2]], "line"),
    ]
    labelme_file(tmp_path / "a.json", shapes)
    source = opened(tmp_path)
    found = source.labels(0, (4, 6))
    assert source.classes.names == ("background", "cat", "dog") and source.notes == {"shapes of kind line left out": 1}
    assert (found[:, 3:] == 255).all() and found[0, 0] == 1 and found[2, 1] == 2


def test_masks_of_labelme_are_objects_with_masks(tmp_path: Path):
    """The first row of the box is empty in the mask, so that the object's box is smaller than the shape's."""
    bitmap = np.array([[0, 0], [1, 0], [1, 1]], np.uint8)
    labelme_file(tmp_path / "a.json", [mask_of_labelme(bitmap, 1, 1), shape("cat", [[0, 0], [2, 2]], "rectangle")])
    truth = open_split(tmp_path, "train")
    data = CocoAnnotations.of(truth, without_mask="box")
    assert data.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 2, 2]]
    expected = np.zeros((4, 6), bool)
    expected[1:4, 1:3] = bitmap
    assert np.array_equal(bitmaps(data.strips_of(0), 2, (4, 6))[0], expected)
    given = mask_of_labelme(bitmap, 1, 1)
    for change, message in (
        ({"mask": "????"}, "its mask is no image"),
        ({"points": [[1, 1], [3, 3]]}, "its mask has 2x3 pixels, other than its box"),
        ({"points": [[5, 1], [6, 3]]}, "the box of its mask is not inside the image"),
    ):
        labelme_file(tmp_path / "a.json", [{**given, **change}])
        with pytest.raises(UserError, match=message):
            opened(tmp_path)
        with pytest.raises(UserError, match=f"shape 1: {message}"):
            open_split(tmp_path, "train")


def test_shapes_of_label_studio_are_turned_and_json_min_is_read(tmp_path: Path):
    """A rectangle turns around its first corner: 3 pixels wide and 2 high at (5, 1), turned by 90 degrees, it has
    columns 3 to 4 and rows 1 to 3. An ellipse of radii 3 and 2 fills its row in the middle."""
    photo(tmp_path / "a.jpg")
    box = {"x": 500 / 6, "y": 25, "width": 50, "height": 50, "rotation": 90, "rectanglelabels": ["box"]}
    round_one = {"x": 50, "y": 50, "radiusX": 50, "radiusY": 50, "rotation": 0, "ellipselabels": ["ring"]}
    point = {"x": 5, "y": 5, "width": 1, "keypointlabels": ["dot"]}
    drawn = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "closed": True, "labels": ["any"]}  # of <Labels>
    results = [("ellipselabels", round_one), ("keypointlabels", point), ("rectanglelabels", box), ("labels", drawn)]
    (tmp_path / "x.json").write_text(json.dumps([task(1, "a.jpg", *results)]))
    source = opened(tmp_path)
    assert source.classes.names == ("background", "any", "box", "ring")
    found = source.labels(0, (4, 6))
    expected = np.zeros((4, 6), bool)
    expected[1:4, 3:5] = True
    assert np.array_equal(found == 2, expected)
    assert (found[:2, :3] == 1).all() and found[2, 0] == found[2, 5] == 3 and found[0, 5] == found[3, 0] == 0
    assert source.notes == {"results of type keypointlabels left out": 1}
    sides = {"original_width": 6, "original_height": 4}
    minimal = {"id": 1, "image": "/data/upload/1/12ab34cd-a.jpg", "tag": [{**box, **sides}, {**drawn, **sides}]}
    minimal |= {"annotator": 1, "annotation_id": 7, "created_at": "2026-01-01", "lead_time": 3.5}
    (tmp_path / "x.json").write_text(json.dumps([minimal]))
    source = opened(tmp_path)
    assert source.classes.names == ("background", "any", "box")
    assert np.array_equal(source.labels(0, (4, 6)) == 2, expected)


def test_shapes_of_one_group_of_labelme_are_one_object(tmp_path: Path):
    """The cats of group 1 are one object with two polygons; a dog of group 1 and a cat without a group are others."""
    left, right = [[0, 0], [2, 0], [2, 2]], [[4, 1], [6, 1], [6, 4]]
    shapes = [{**shape("cat", left), "group_id": 1}, shape("cat", left), {**shape("dog", left), "group_id": 1}]
    labelme_file(tmp_path / "a.json", [*shapes, {**shape("cat", right), "group_id": 1}])
    data = CocoAnnotations.of(truth := open_split(tmp_path, "train"), without_mask="error")
    assert data.boxes.tolist() == [[0, 0, 6, 4], [0, 0, 2, 2], [0, 0, 2, 2]]
    assert truth.data["annotations"][0]["segmentation"] == [[0, 0, 2, 0, 2, 2], [4, 1, 6, 1, 6, 4]]
    assert data.notes == {"shapes of a group that are one object with another shape": 1}
    box = {**shape("foreground", [[0, 0], [1, 4]], "rectangle"), "group_id": 7}
    labelme_file(tmp_path / "a.json", [{**mask_of_labelme(HALF[2:, 3:], 3, 2), "group_id": 7}, box])
    data = CocoAnnotations.of(open_split(tmp_path, "train"), without_mask="error")
    found = bitmaps(data.strips_of(0), 1, (4, 6))[0]
    assert data.boxes.tolist() == [[0, 0, 6, 4]] and found[:, 0].all() and found[2:, 3:].all() and found.sum() == 10


def test_hostile_annotations_are_refused_in_one_line(tmp_path: Path):
    (tmp_path / "me").mkdir()
    labelme_file(tmp_path / "me" / "a.json", [shape("cat", RIGHT)])
    file = tmp_path / "me" / "b.json"
    for content, message in (
        ({"shapes": [], "imagePath": "../../etc/gone.jpg"}, "`imagePath` .* fits no file in .*; put the image beside"),
        ({"shapes": [{"label": "cat"}], "imagePath": "a.jpg"}, "has no `label` and `points`"),
        ({"shapes": [shape("cat", [[1, None]])], "imagePath": "a.jpg"}, "has no `label` and `points`"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message) as error:
            opened(tmp_path / "me")
        assert "\n" not in str(error.value) and "b.json" in str(error.value)
    studio = tmp_path / "studio"
    photo(studio / "a.jpg")
    for value, message in (
        ({"format": "rle", "rle": [1, 2], "brushlabels": ["x"]}, r"task 1: an outline of x is malformed \(run lengths"),
        ({"format": "rle", "rle": [256], "brushlabels": ["x"]}, "are a list of bytes"),
        ({"format": "rle", "rle": brush(HALF[:2]), "brushlabels": ["x"]}, "48 values of 8 bits for an image of 6x4"),
        ({"points": [[1, 2]], "brushlabels": ["x"]}, "task 1: the outline .* is malformed; export it again"),
    ):
        (studio / "x.json").write_text(json.dumps([task(1, "a.jpg", ("brushlabels", value))]))
        with pytest.raises(UserError, match=message):
            opened(studio).labels(0, (4, 6))
    (studio / "x.json").write_text(json.dumps([task(1, "gone.jpg", ("brushlabels", {"brushlabels": ["x"]}))]))
    with pytest.raises(UserError, match=r"task 1: the image \('gone\.jpg'\) is not in the folder of the export"):
        opened(studio)


def test_brush_strokes_of_any_form_are_decoded():
    random = np.random.default_rng(0)
    for size in ((1, 1), (5, 3), (4, 60)):
        mask = random.random(size) < 0.3
        assert np.array_equal(decode_brush(brush(mask), size), mask)


def test_an_unknown_folder_names_the_nearest_layouts_and_what_it_lacks(tmp_path: Path):
    photo(tmp_path / "images" / "a.jpg")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"nearest are folders of label maps \(lacks label maps in labels/ or masks"):
        opened(tmp_path)


def test_label_maps_lie_beside_images_whose_suffixes_have_capitals(tmp_path: Path):
    beside(tmp_path)
    for path in tmp_path.glob("*.jpg"):
        path.rename(path.with_suffix(".JPG"))
    assert len(opened(tmp_path)) == 2
    assert not has_split(tmp_path, "val")


def test_labels_of_splits_that_differ_in_capitals_are_one_class(tmp_path: Path):
    for split, label in (("train", "sea"), ("val", "Sea")):
        labelme_file(tmp_path / "labelme" / split / "a.json", [shape(label, RIGHT)])
    for split in ("train", "val"):
        assert opened(tmp_path / "labelme", split).classes.names == ("background", "sea")
    source = opened(tmp_path / "labelme", "val")
    assert source.notes == {"names of classes that differ in capitals (Sea -> sea)": 1}
    assert np.array_equal(source.labels(0, (4, 6)), HALF)
    (tmp_path / "labelme" / "labels.txt").write_text("Sea\n")
    assert opened(tmp_path / "labelme", "train").classes.names == ("background", "Sea")
    # Label Studio's exports of two splits.
    for split, label in (("train", "sea"), ("val", "Sea")):
        photo(tmp_path / "studio" / "images" / f"{split}.jpg")
        value = {"points": [[50, 0], [100, 0], [100, 100], [50, 100]], "polygonlabels": [label]}
        result = {"type": "polygonlabels", "value": value, "original_width": 6, "original_height": 4}
        record = {"id": 1, "data": {"image": f"/data/{split}.jpg"}, "annotations": [{"result": [result]}]}
        (tmp_path / "studio" / f"{split}.json").write_text(json.dumps([record]))
    for split in ("train", "val"):
        source = opened(tmp_path / "studio", split)
        assert source.classes.names == ("background", "sea") and np.array_equal(source.labels(0, (4, 6)), HALF)
