"""Masks in files of their own, and in YOLO's labels: Penn-Fudan's layout, VOC's SegmentationObject, polygons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import known_layout, open_split
from detection.runs import bitmaps


def masks_of(data: CocoAnnotations, index: int) -> np.ndarray:
    height, width = data.sizes[index].tolist()
    return bitmaps(data.strips_of(index), len(data.of_image(index)[0]), (height, width))


def test_penn_fudans_maps_are_read_as_masks_and_boxes(tmp_path: Path):
    """Every pixel value is an object. Images without a map are counted."""
    for folder in ("PNGImages", "PedMasks"):
        (tmp_path / folder).mkdir()
    numbers = np.zeros((40, 60), np.uint8)
    numbers[5:20, 10:30], numbers[25:38, 2:9], numbers[22, 50] = 1, 2, 7
    for name in ("FudanPed00001", "FudanPed00002"):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / f"PNGImages/{name}.png")
    Image.fromarray(numbers).save(tmp_path / "PedMasks/FudanPed00001_mask.png")
    truth = open_split(tmp_path, "train")
    assert known_layout(tmp_path).name == "instance-maps"
    data = CocoAnnotations.of(truth, without_mask="error")
    assert data.categories.names == ("pedestrian",) and len(data) == 1
    assert data.boxes.tolist() == [[10, 5, 30, 20], [2, 25, 9, 38], [50, 22, 51, 23]]
    assert np.array_equal(masks_of(data, 0), np.stack([numbers == 1, numbers == 2, numbers == 7]))
    assert data.notes == {"images without an instance map, which are left out": 1}
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "PedMasks/FudanPed00002_mask.png")
    with pytest.raises(UserError, match=r"FudanPed00002_mask\.png: is a colour image; give each object a grey value"):
        open_split(tmp_path, "train")


def test_vocs_instance_maps_are_read_if_masks_are_needed(voc):
    """Value n of SegmentationObject/NAME.png is the object n of the XML file; 255 is the border."""
    root = voc.write()
    (root / "SegmentationObject").mkdir()
    numbers = np.zeros((40, 60), np.uint8)
    numbers[8:30, 12:28], numbers[0:3, 40:60], numbers[30:33, 12:28] = 1, 2, 255
    Image.fromarray(numbers).save(root / "SegmentationObject/a.png")
    assert not any("segmentation" in record for record in open_split(root, "trainval").data["annotations"])
    truth = open_split(root, "trainval", masks=True)
    with_masks = [record for record in truth.data["annotations"] if "segmentation" in record]
    assert len(with_masks) == 2
    data = CocoAnnotations.of(truth, without_mask="drop")
    row = int(np.flatnonzero(data.file_names == "a.jpg")[0])
    assert np.array_equal(masks_of(data, row), np.stack([numbers == 1, numbers == 2]))


def test_yolos_polygons_are_masks(tmp_path: Path):
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "images/train/1.png")
    (tmp_path / "classes.txt").write_text("thing\n")
    (tmp_path / "labels/train/1.txt").write_text("0 0.5 0.25 0.75 0.25 0.75 0.5 0.5 0.5\n0 0.2 0.2 0.1 0.1\n")
    truth = open_split(tmp_path, "train")
    record = truth.data["annotations"][0]
    assert record["segmentation"] == [[30, 10, 45, 10, 45, 20, 30, 20]]
    assert record["bbox"] == [30, 10, 15, 10] and record["area"] == 150
    with pytest.raises(UserError, match=r"line 2 has no usable mask: `segmentation` is missing.*--without-mask box or"):
        CocoAnnotations.of(truth, without_mask="error")
    masks = masks_of(CocoAnnotations.of(truth, without_mask="box"), 0)
    assert masks[0].sum() == 150 and masks[0, 10:20, 30:45].all()
    assert masks[1].sum() == 6 * 4  # columns 9 to 15 and rows 6 to 10
