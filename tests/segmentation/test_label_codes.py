"""Meaning of the pixels of label maps (grey values, palettes, class lists), and location of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from backbones.errors import UserError
from segmentation.data.classes import IGNORE, Classes
from segmentation.data.folders import open_folder, open_source
from segmentation.data.layout import is_label_folder
from segmentation.data.statistics import measure_labels
from segmentation.options import SegmentationDataOptions

Maps = dict[str, np.ndarray]


def write(root: Path, maps: Maps, classes: str, *, split: str = "train", folder: str = "labels") -> Path:
    """Write a JPEG for each label map, the label maps under their names, and classes.txt."""
    for name, values in maps.items():
        image, path = root / "images" / split / f"{name}.jpg", root / folder / split / f"{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.zeros((*values.shape[:2], 3), np.uint8))
        Image.fromarray(values.astype(np.uint8)).save(path)
    (root / "classes.txt").write_text(classes)
    return root


def row(*values: int) -> np.ndarray:
    return np.array([values])


def read(root: Path, split: str = "train", ignore_index: int = 255) -> list[list[int]]:
    """Return the class numbers of each label map's only row."""
    source = open_folder(root, split, ignore_index=ignore_index)
    return [source.labels(index, source.size(index))[0].tolist() for index in range(len(source))]


@pytest.mark.parametrize(
    ("classes", "maps", "expected"),
    [
        # Two classes and only 0 and 255 in all label maps: 255 is class 1.
        ("ground\nobject\n", [(0, 255), (0, 0), (255, 255)], [[0, 1], [0, 0], [1, 1]]),
        # A single 1 says that these are class numbers: 255 is ignored.
        ("ground\nobject\n", [(0, 255), (0, 1)], [[0, IGNORE], [0, 1]]),
        ("ground\nobject\n", [(0, 1), (1, 1)], [[0, 1], [1, 1]]),
        # Grey colours of the classes count, also where they are not in the order of the numbers.
        ("ground 0 0 0\nobject 255 255 255\n", [(0, 255), (0, 0)], [[0, 1], [0, 0]]),
        ("object 255 255 255\nground 0 0 0\n", [(0, 255), (0, 0)], [[1, 0], [1, 1]]),
        ("a 0 0 0\nb 255 255 255\nc 128 128 128\n", [(0, 255), (128, 0)], [[0, 1], [2, 0]]),
        ("a 0 0 0\nb 200 200 200\nvoid 100 100 100\n", [(0, 200), (100, 255)], [[0, 1], [IGNORE, IGNORE]]),
        # Class numbers beside grey colours.
        ("ground 0 0 0\nobject 255 255 255\n", [(0, 1), (0, 255)], [[0, 1], [0, IGNORE]]),
        ("a 0 0 0\nb 90 0 0\nc 255 255 255\n", [(0, 1), (2, 255)], [[0, 1], [2, IGNORE]]),
        # More classes: 255 is ignored.
        ("a\nb\nc\n", [(0, 255), (1, 2)], [[0, IGNORE], [1, 2]]),
    ],
)
def test_grey_values_mean_what_the_data_set_says(
    tmp_path: Path, classes: str, maps: list[tuple[int, ...]], expected: list[list[int]]
):
    assert read(write(tmp_path, {str(index): row(*values) for index, values in enumerate(maps)}, classes)) == expected


def test_another_split_decides_as_well(tmp_path: Path):
    write(tmp_path, {"a": row(0, 255)}, "ground\nobject\n", split="val")
    assert read(tmp_path, "val") == [[0, 1]]
    write(tmp_path, {"b": row(0, 1)}, "ground\nobject\n")
    assert read(tmp_path, "val") == [[0, IGNORE]]


def test_black_and_white_masks_keep_an_ignore_index_and_refuse_other_values(tmp_path: Path):
    maps = {f"{index:03d}": row(0, 255, 9) for index in range(200)}
    write(tmp_path, maps, "ground\nobject\n")
    assert read(tmp_path, ignore_index=9)[0] == [0, 1, IGNORE]
    write(tmp_path, {"001": row(0, 255, 1)}, "ground\nobject\n")  # not one of the 32 that are looked at
    with pytest.raises(UserError, match=r"001\.png: holds the value 1, but other label maps of the data set hold only"):
        read(tmp_path, ignore_index=9)


def with_palette(path: Path, values: np.ndarray, *colours: tuple[int, int, int]) -> None:
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    image.save(path)


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_palettes_that_differ_are_read_by_colour_or_refused(tmp_path: Path):
    write(tmp_path, {"a": row(0, 1, 1), "b": row(0, 1, 1), "c": row(0, 0, 0)}, "red\ngreen\nblue\n")
    labels = tmp_path / "labels" / "train"
    with_palette(labels / "a.png", row(0, 1, 2), RED, GREEN, BLUE)
    with_palette(labels / "b.png", row(0, 1, 1), RED, BLUE)  # number 1 means another class than in a.png
    with_palette(labels / "c.png", row(0, 0, 0), RED, BLUE)  # its only number means the same
    with pytest.raises(UserError, match=r"b\.png: class number 1 has colour 0 0 255 .* 0 255 0 in .*a\.png; list"):
        read(tmp_path)
    (tmp_path / "classes.txt").write_text("red 255 0 0\ngreen 0 255 0\nblue 0 0 255\n")
    assert read(tmp_path) == [[0, 1, 2], [0, 2, 2], [0, 0, 0]]
    # The palette of another split counts as well.
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
    write(tmp_path, {"d": row(0, 1, 1)}, "red\ngreen\nblue\n", split="val")
    with_palette(tmp_path / "labels" / "val" / "d.png", row(0, 1, 1), RED, BLUE)
    with pytest.raises(UserError, match=r"d\.png: class number 1 has colour"):
        read(tmp_path, "val")


@pytest.mark.parametrize(
    ("name", "text", "void"),
    [
        ("classes.txt", "# the classes\n\nsky 1 2 3\n\n  # more\nbig road 4 5 6 # of asphalt\n", None),
        ("classes.txt", "sky #010203\nbig road #040506\nvoid #ffFFff\n", (255, 255, 255)),
        ("classes.txt", "sky, 1, 2, 3\nbig road, 4, 5, 6\n", None),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:1,2,3::\nbig road:4,5,6:a,b:c\n", None),
    ],
)
def test_class_lists_may_have_comments_and_colours_in_several_forms(tmp_path: Path, name: str, text: str, void: Any):
    (tmp_path / name).write_text(text)
    colours = ((1, 2, 3), (4, 5, 6))
    assert Classes.read(tmp_path / name) == Classes(("sky", "big road"), colours, given=True, void=void)


def test_comments_are_no_classes_without_colours(tmp_path: Path):
    write(tmp_path, {"a": row(0, 1)}, "# names\n\nsky\nC#\n")
    assert Classes.read(tmp_path / "classes.txt").names == ("sky", "C#")
    (tmp_path / "classes.txt").rename(tmp_path / "labelmap.txt")
    assert open_folder(tmp_path, "train", ignore_index=255).classes.names == ("sky", "C#")


@pytest.mark.parametrize("name", ["a_mask.png", "a.tif", "a.gif", "a.npy", "a-label.bmp"])
def test_label_maps_are_matched_by_their_name(tmp_path: Path, name: str):
    write(tmp_path, {"a": row(0, 1, 255)}, "sky\nroad\nsea\n", folder="masks")
    (tmp_path / "masks" / "train" / "a.png").unlink()
    path = tmp_path / "masks" / "train" / name
    values = row(0, 1, 255).astype(np.uint8)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    for hidden in (tmp_path / "images" / "train" / ".cache" / "b.jpg", tmp_path / "images" / "train" / "._a.jpg"):
        hidden.parent.mkdir(exist_ok=True)
        hidden.touch()
    (tmp_path / "images" / "train" / "c.svg").touch()
    assert read(tmp_path) == [[0, 1, IGNORE]]
    assert open_folder(tmp_path, "train", ignore_index=255).passed_over == {".svg": 1}


def test_what_was_found_is_said(tmp_path: Path):
    write(tmp_path, {"a": row(0, 1)}, "sky\nroad\n")
    labels = tmp_path / "labels" / "train"
    (labels / "a.png").rename(labels / "b.png")
    with pytest.raises(
        UserError, match=r"a\.jpg: has no label map \(1 of 1 .*labels/train holds 1 \.png\); add the label map"
    ):
        read(tmp_path)
    for name in ("a_mask.png", "a_label.png"):
        (labels / name).touch()
    with pytest.raises(UserError, match=r"a_label\.png and a_mask\.png: are both label maps of a\.jpg"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"images/test: no such folder \(.*images holds train/\)"):
        read(tmp_path, "test")
    # Boxes of YOLO are no label maps.
    for path in labels.iterdir():
        path.unlink()
    (labels / "a.txt").touch()
    assert not is_label_folder(tmp_path)
    with pytest.raises(UserError, match=r"unknown layout \(the folder holds images/, labels/, 1 \.txt\); use"):
        open_source(tmp_path, "train", SegmentationDataOptions())


def test_voc_images_may_be_png(tmp_path: Path):
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("x\n")
    Image.new("RGB", (2, 1)).save(tmp_path / "JPEGImages/x.png")
    Image.fromarray(np.array([[0, 15]], np.uint8)).save(tmp_path / "SegmentationClass/x.png")
    assert read(tmp_path) == [[0, 15]]
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("y\nz\n")
    with pytest.raises(
        UserError,
        match=r"JPEGImages: contains none of the 2 images that train\.txt lists, such as y \(the folder holds 1 \.png",
    ):
        read(tmp_path)


def test_a_turned_photo_is_turned_where_its_label_map_is_upright(tmp_path: Path):
    write(tmp_path, {"a": np.zeros((6, 4)), "b": np.zeros((4, 6))}, "sky\nroad\n")
    exif, pixels = Image.Exif(), np.zeros((4, 6, 3), np.uint8)
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    pixels[:, 5] = 255  # right in the file, at the bottom when turned
    for name in "ab":
        Image.fromarray(pixels).save(tmp_path / "images" / "train" / f"{name}.jpg", exif=exif, quality=100)
    source = open_folder(tmp_path, "train", ignore_index=255)
    turned, stored = source.image(0), source.image(1)
    assert (turned.shape, stored.shape) == ((6, 4, 3), (4, 6, 3))
    assert turned[5].min() > 200 and stored[:, 5].min() > 200  # JPEG rounds
    assert turned[:4].max() < 60 and stored[:, :4].max() < 60


@pytest.mark.parametrize("name", ["valid", "validation", "dev"])
def test_other_names_of_the_validation_split_are_found_and_test_is_not(tmp_path: Path, name: str):
    for split in ("test", name):
        write(tmp_path, {"a": row(0, 1)}, "sky\nroad\n", split=split)
    options = SegmentationDataOptions()
    assert open_source(tmp_path, "val", options).where == f"{tmp_path} ({name})"
    (tmp_path / "images" / name).rename(tmp_path / "images" / "other")
    with pytest.raises(UserError, match=r"images/val: no such folder"):
        open_source(tmp_path, "val", options)
    options = SegmentationDataOptions(val_split="test")
    assert open_source(tmp_path, "val", options).where == f"{tmp_path} (test)"


def test_statistics_count_classes_and_refuse_what_cannot_be_learned(tmp_path: Path):
    maps = {f"{index:03d}": row(0, 0, 255, 255, 255) for index in range(300)}
    write(tmp_path, {**maps, "299": row(0, 1, 0, 0, 0)}, "sky\nroad\nsea\n")
    source = open_folder(tmp_path, "train", ignore_index=255)
    # The only road is not among the 100 label maps of the sample; then all are read.
    found = measure_labels(source, np.arange(300))
    assert (found.read, found.pixels.tolist(), found.ignored) == (300, [299 * 2 + 4, 1, 0], 299 * 3)
    assert str(found) == (
        "300 of 300 label maps read; 59.8% of their pixels ignored (WARNING: more than half); WARNING: no pixel of sea"
    )  # 897 / 1500
    with pytest.raises(UserError, match="all pixels that are not ignored have the class sky"):
        measure_labels(source, np.arange(299))
    write(tmp_path, {"299": row(255)}, "sky\nroad\nsea\n")
    with pytest.raises(UserError, match="all pixels of the label maps are ignored"):
        measure_labels(open_folder(tmp_path, "train", ignore_index=255), [299])
