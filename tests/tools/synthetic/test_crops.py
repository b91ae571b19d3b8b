"""The built-in shapes as class folders: one crop per object, generated once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbones.errors import UserError
from classification.data.opening import open_source
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
    objects = truth(crops, split)["annotations"]
    found = sorted((path.parent.name, path.stem) for path in (crops / split).rglob("*.png"))
    assert found == sorted((names[each["category_id"]], f"{each['id']:06d}") for each in objects)
    assert json.loads((crops / "crops.json").read_text())[split] == len(objects)
    sizes = Counter(cv2.imread(str(path)).shape for path in (crops / split).rglob("*.png"))
    assert sizes == {(32, 32, 3): len(objects)}


def test_a_crop_is_the_square_around_the_box_with_the_edge_repeated():
    """A box of 20 x 10 at (0, 5): side 1.2 * 20 = 24 around (10, 10), from -2 to 22 on both sides."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :10] = 200
    cut = crop(image, [0, 5, 20, 10])
    # 12 of 24 columns are bright, including the two beyond the edge: 16 of 32.
    assert cut.shape == (32, 32, 3)
    assert cut[:, :16].min() == 200
    assert cut[:, 16:].max() == 0
    assert crop(image, [39, 39, 0.4, 0.4]).shape == (32, 32, 3)  # a speck in the corner


def test_they_are_generated_once(crops: Path):
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


def test_the_command_writes_crops_to_a_new_folder(crops: Path, script, tmp_path: Path):
    cache = {"RESNET_TRANSFER_CACHE": str(crops.parent)}
    options = ("--crops", *(str(word) for name, value in EDITION.items() for word in (f"--{name}", value)))
    done = script("shapes.py", *options, "--output", "mine", cwd=tmp_path, **cache)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "mine")), done.stderr
    files = {path.relative_to(crops): path.read_bytes() for path in crops.rglob("*") if path.is_file()}
    written = {path.relative_to(tmp_path / "mine"): path for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in written.items()} == files
    assert script("shapes.py", *options, cwd=tmp_path, **cache).stdout.strip() == str(crops)
    again = script("shapes.py", *options, "--output", "mine", cwd=tmp_path, **cache)
    assert again.returncode == 2 and "mine: exists already; name a new folder" in again.stderr
