"""Own data with label maps: folders without splits, maps beside images, and exports of CVAT, LabelMe, Label Studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tool_exports import litter

from backbones.errors import UserError
from segmentation.data.brush import decode_brush
from segmentation.data.coco import CocoLabels
from segmentation.data.dataset import LabelSource
from segmentation.data.folders import has_split, open_source
from segmentation.options import SegmentationDataOptions

HALF = np.repeat([[0, 0, 0, 1, 1, 1]], 4, axis=0).astype(np.uint8)  # 6 x 4 pixels: the right half is class 1


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photo(path: Path) -> None:
    save(path, np.full((4, 6, 3), 90, np.uint8))


def opened(root: Path, split: str = "train", **options: Any) -> LabelSource:
    name = "train" if split == "train" else "val"
    return open_source(root, name, SegmentationDataOptions(**options))


def flat(root: Path) -> None:
    for name in ("a b", "c"):
        photo(root / "images" / f"{name}.jpg")
        save(root / "masks" / f"{name}.png", 255 * HALF)


def beside(root: Path) -> None:
    for name in ("a b", "c"):
        photo(root / f"{name}.jpg")
        save(root / f"{name}_mask.png", 255 * HALF)


def cvat(root: Path) -> None:
    """CVAT's "Segmentation mask 1.1": colours in labelmap.txt, a list named default.txt."""
    lines = ("# label:color_rgb:parts:actions", "background:0,0,0::", "foreground:10,200,30::")
    for name in ("a b", "c"):
        photo(root / "JPEGImages" / f"{name}.jpg")
        save(root / "SegmentationClass" / f"{name}.png", HALF[..., None] * np.array([10, 200, 30], np.uint8))
        save(root / "SegmentationObject" / f"{name}.png", HALF[..., None] * np.array([128, 0, 0], np.uint8))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("a b\nc\n")
    (root / "labelmap.txt").write_text("\n".join(lines))


def shape(label: str, points: list[list[float]], kind: str = "polygon") -> dict[str, Any]:
    fields = {"group_id": None, "description": "", "shape_type": kind, "flags": {}, "mask": None}
    return {"label": label, "points": points, **fields}


RIGHT = [[2.6, -5.0], [9.0, -5.0], [9.0, 9.0], [2.6, 9.0]]  # beyond the image on three sides


def labelme_file(path: Path, shapes: list[dict[str, Any]], **fields: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": None}
    photo(path.with_suffix(".jpg"))
    path.write_text(json.dumps({**content, "imageHeight": 4, "imageWidth": 6, **fields}))


def labelme(root: Path) -> None:
    root.mkdir()
    labelme_file(root / "a b.json", [shape("foreground", RIGHT)])
    labelme_file(root / "c.json", [shape("foreground", [[2.6, 0], [6, 4]], "rectangle")])


def bits(value: int, count: int) -> list[int]:
    return [value >> place & 1 for place in range(count)][::-1]


def brush(mask: np.ndarray) -> list[int]:
    """A mask as the brush stores it: RGBA pixels, first a run of single values, then runs of equal ones."""
    values = np.repeat(mask.ravel().astype(int) * 255, 4).tolist()
    stream = [*bits(len(values), 32), *bits(7, 5), *(bit for width in (2, 3, 7, 15) for bit in bits(width, 4))]
    stream += [0, *bits(0, 2), *bits(2, 3), *(bit for value in values[:3] for bit in bits(value, 8))]
    place = 3
    while place < len(values):
        end = next((i for i in range(place, len(values)) if values[i] != values[place]), len(values))
        stream += [1, *bits(2, 2), *bits(end - place - 1, 8), *bits(values[place], 8)]
        place = end
    stream += [0] * (-len(stream) % 8)
    return np.packbits(stream).tolist()


def task(number: int, image: str, *results: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    size = {"original_width": 6, "original_height": 4, "image_rotation": 0}
    found = [
        {**size, "value": value, "id": "x", "from_name": "tag", "to_name": "image", "type": kind}
        for kind, value in results
    ]
    annotations = [{"id": number, "was_cancelled": True, "result": []}, {"id": 9, "was_cancelled": False}]
    annotations[1]["result"] = found
    return {"id": number, "annotations": annotations, "predictions": [], "data": {"image": image}}


def label_studio(root: Path) -> None:
    photo(root / "images" / "a b.jpg")
    photo(root / "images" / "c.jpg")
    stroke = {"format": "rle", "rle": brush(HALF), "brushlabels": ["foreground"]}
    box = {"x": 50, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": ["foreground"]}
    tasks = [
        task(1, "/data/upload/1/1a2b3c4d-a%20b.jpg", ("brushlabels", stroke)),
        task(2, "/data/local-files/?d=photos/c.jpg", ("rectanglelabels", box)),
    ]
    (root / "project-1-at-2026-01-01.json").write_text(json.dumps(tasks))


@pytest.mark.parametrize("write", [flat, beside, cvat, labelme, label_studio])
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
