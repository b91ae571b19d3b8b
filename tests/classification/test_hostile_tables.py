"""Mutants of CSV files of classes: each is read with a defined result, or refused with a UserError."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hostile import SCALE, mutants, require_one_line
from PIL import Image

from backbones.errors import UserError
from classification.data import listing as listings
from classification.data.image_index import ImageIndex
from classification.data.layouts import has_split, read_split
from classification.data.listing import ClassListing
from classification.data.reading import Reading
from tools.checks.findings import CheckReport
from tools.checks.folders import check_classes

MUTANTS = 15
# File -> its content, with classes, splits, several classes an image, and a column for each class.
TABLES = {
    "labels.csv": 'image,label\na.png,ant\nsub/b.png,"bee, red"\nc.png,ant\n',
    "parts.csv": "split;FileName;tags\ntrain;a.png;ant|bee\nval;sub/b.png;\ntrain;C:\\x\\c.png;bee\n",
    "train.tsv": "id\tClass Name\na\tant\nb\tbee\n",
    "train/_classes.csv": "filename, ant, bee\na.png, 1, 0\nb.png, 1, 1\nc.png, 0, 0\n",
    "train/metadata.jsonl": '{"file_name": "a.png", "label": "ant"}\n{"file_name": "b.png", "label": "bee"}\n',
}


def written(root: Path, name: str) -> Path:
    path = root / name
    folder = path.parent
    (folder / "sub").mkdir(parents=True)
    for image in ("a.png", "sub/b.png", "c.png"):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / image)
    path.write_text(TABLES[name])
    return path


def require_defined(found: ClassListing, root: Path) -> None:
    """Require that the numbers of a listing are classes, and that its images are files below `root`."""
    count = len(found.names)
    assert len(found.files) and len(set(found.names)) == count and "" not in found.names
    shape = (len(found.files), count) if found.multi_label else (len(found.files),)
    assert found.numbers.shape == shape
    assert found.multi_label or set(found.numbers.tolist()) == set(range(count))
    for file in map(os.fsdecode, found.files.tolist()):
        path = (found.root / file).resolve()
        assert path.is_file() and root.resolve() in path.parents


@pytest.mark.parametrize("name", TABLES)
def test_mutants_of_csv_files_are_read_or_refused_with_one_line(name: str, tmp_path: Path):
    """The check lists what training refuses for missing images, and does not fail otherwise."""
    root = tmp_path / "set"
    path = written(root, name)
    refused, separator = 0, Reading(label_separator="|")
    for number in mutants(path, MUTANTS):
        data = root if number % 2 else path
        has_split(data, "val", separator)
        try:
            require_defined(read_split(data, "train", separator), root)
        except UserError as error:
            require_one_line(error, tmp_path)
            refused += 1
        try:
            found = {"train": read_split(data, "train", Reading(label_separator="|", keep_absent=True))}
            images = check_classes(found, CheckReport())["train"]
            images.list_missing(CheckReport())
        except UserError as error:
            require_one_line(error, tmp_path)
    assert 0 < refused < MUTANTS * SCALE


def test_a_table_of_several_classes_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = written(tmp_path, "labels.csv")
    monkeypatch.setattr(listings, "MOST_CELLS", 5)
    assert len(read_split(path, "train").files) == 3
    path.write_text("image,label\na.png,ant;bee\nc.png,cow\n")  # two images of three classes are six cells
    for multi_label in (None, True):
        with pytest.raises(UserError, match="csv: 2 images of 3 classes, several an image, would fill the mem"):
            read_split(path, "train", Reading(multi_label=multi_label))


def test_a_name_that_no_file_can_have_is_missing_and_no_traceback(tmp_path: Path):
    path = written(tmp_path / "set", next(iter(TABLES)))
    assert ImageIndex(path.parent).find("[" * 2000 + "/c.png", where="here") == "c.png"  # a folder of another machine
    assert ImageIndex(path.parent).find("[" * 2000 + "/d.png", where="here") is None
