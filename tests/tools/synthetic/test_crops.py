"""The built-in shapes as class folders: one crop an object, by class, made once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbones.errors import UserError
from classification.data.source import open_source
from tools.synthetic import shapes
from tools.synthetic.crops import crop, prepare

EDITION = {"train": 5, "val": 2, "size": 64}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("cache"), **EDITION)


def truth(crops: Path, split: str) -> dict:
    source = crops.with_name(crops.name.removesuffix("-crops32"))
    return json.loads((source / "annotations" / f"instances_{split}.json").read_text())


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_object_is_one_crop_in_the_folder_of_its_class(crops: Path, split: str):
    names = {category["id"]: category["name"] for category in shapes.CATEGORIES}
    things = truth(crops, split)["annotations"]
    found = sorted((path.parent.name, path.stem) for path in (crops / split).rglob("*.png"))
    assert found == sorted((names[thing["category_id"]], f"{thing['id']:06d}") for thing in things)
    assert json.loads((crops / "crops.json").read_text())[split] == len(things)
    sizes = Counter(cv2.imread(str(path)).shape for path in (crops / split).rglob("*.png"))
    assert sizes == {(32, 32, 3): len(things)}


def test_a_crop_is_the_square_around_the_box_with_the_edge_repeated():
    """A box of 20 x 10 at (0, 5): side 1.2 * 20 = 24 around (10, 10), from -2 to 22 on both sides."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :10] = 200
    cut = crop(image, [0, 5, 20, 10])
    # 12 of 24 columns are bright, the two beyond the edge among them: 16 of 32.
    assert cut.shape == (32, 32, 3)
    assert cut[:, :16].min() == 200
    assert cut[:, 16:].max() == 0
    assert crop(image, [39, 39, 0.4, 0.4]).shape == (32, 32, 3)  # a speck in the corner


def test_they_are_made_once_and_whole(crops: Path):
    before = {path: path.stat().st_mtime_ns for path in crops.rglob("*")}
    assert prepare(crops.parent, **EDITION) == crops
    assert {path: path.stat().st_mtime_ns for path in crops.rglob("*")} == before


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="RESNET_TRANSFER_CACHE"):
        prepare(tmp_path / "file", **EDITION)


def test_training_reads_them(crops: Path):
    source = open_source(str(crops), in_channels=None, splits=("train", "val"))
    assert set(source.classes) <= {category["name"] for category in shapes.CATEGORIES}
    assert (source.train_size, source.val_size) == tuple(len(truth(crops, s)["annotations"]) for s in shapes.SPLITS)
