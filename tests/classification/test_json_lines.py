"""Classes in `metadata.jsonl` of Hugging Face's image folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backbones.errors import UserError
from classification.data.layouts import has_split, read_split
from classification.data.listing import ClassListing


def write(folder: Path, *entries: Any) -> Path:
    """Write lines, and two images; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.zeros((6, 8, 3), np.uint8))
    return folder


def classes(listing: ClassListing) -> dict[str, str]:
    return {
        os.fsdecode(file).rpartition("/")[2]: listing.names[number]
        for file, number in zip(listing.files, listing.numbers, strict=True)
    }


def test_each_folder_of_a_split_has_a_file(tmp_path: Path):
    for split in ("train", "validation"):
        write(tmp_path / split, {"file_name": "a.png", "label": "cat"}, {"file_name": "b.png", "label": 7})
    assert classes(read_split(tmp_path, "train")) == {"a.png": "cat", "b.png": "7"}
    assert classes(read_split(tmp_path, "val")) == {"a.png": "cat", "b.png": "7"}
    assert classes(read_split(tmp_path / "train" / "metadata.jsonl", "train")) == {"a.png": "cat", "b.png": "7"}
    assert not has_split(tmp_path, "test")


def test_a_list_holds_several_classes(tmp_path: Path):
    root = write(tmp_path, {"file_name": "a.png", "labels": ["cat", "dog"]}, {"file_name": "b.png", "labels": []})
    listing = read_split(root, "train")
    assert listing.multi_label and listing.names == ("cat", "dog") and listing.numbers.tolist() == [[1, 1], [0, 0]]


def test_captions_are_no_classes(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no class folders|has no folder train"):
        read_split(write(tmp_path, {"file_name": "a.png", "text": "a cat"}), "train")


@pytest.mark.parametrize("folder", ["", "train"])
def test_boxes_are_no_classes(tmp_path: Path, folder: str):
    write(tmp_path / folder, {"file_name": "a.png", "label": "cat", "objects": {"bbox": [], "category": []}})
    with pytest.raises(UserError, match=r"holds boxes in Hugging Face's metadata.jsonl, .*with tools/train_det.py"):
        read_split(tmp_path, "train")


def test_a_project_of_supervisely_has_no_classes(tmp_path: Path):
    for part in ("ann", "img"):
        write(tmp_path / "train" / part, {})
    with pytest.raises(UserError, match=r"holds boxes in Supervisely's layout \(ann, img\), .*with tools/train_det.py"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ({"file_name": "b.png"}, "line 2 has no 'label', which the first line has; fix the line"),
        ('{"file_name": ', "line 2 is not a JSON object"),
        ("[" * 5000, "line 2 is not a JSON object"),
        (
            {"file_name": "b.png", "label": ["cat;dog"]},
            "line 2: 'label' has a value with ';', which separates classes; pass another --label-separator",
        ),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: Any, error: str):
    with pytest.raises(UserError, match=rf"metadata\.jsonl: {error}"):
        read_split(write(tmp_path, {"file_name": "a.png", "label": "cat"}, line), "train")


def test_a_split_that_only_some_lines_name_counts(tmp_path: Path):
    root = write(
        tmp_path, {"file_name": "a.png", "label": "cat"}, {"file_name": "b.png", "label": "dog", "split": "val"}
    )
    assert classes(read_split(root, "val")) == {"b.png": "dog"}
    with pytest.raises(UserError, match=r"the column split has no split train \(it has val\)"):
        read_split(root, "train")
    lines = [
        {"file_name": f"{name}.png", "label": "cat", "split": split} for name, split in (("a", "train"), ("b", ""))
    ]
    assert read_split(write(tmp_path, *lines), "train").notes == ("lines without a split, which are left out: 1",)
