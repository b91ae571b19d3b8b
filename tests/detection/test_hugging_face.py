"""Image folders of Hugging Face: names of classes, forms of objects, and malformed lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tool_exports import EXPORTS, pictures, text

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import layout_of, open_split
from detection.data.layouts.hugging_face import NUMBERED, UNLABELLED

BOX = [10, 5, 20, 30]


def written(root: Path, *lines: Any) -> Path:
    text(root / "metadata.jsonl", "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    pictures(root)
    return root


def read(root: Path) -> CocoAnnotations:
    return CocoAnnotations.of(open_split(root, "train", layout="hugging-face"))


def test_numbers_without_names_are_the_names(tmp_path: Path):
    root = written(
        tmp_path,
        {"file_name": "a.jpg", "objects": {"bbox": [BOX], "category": [7]}},
        {"file_name": "b.png", "objects": {"bbox": [], "category": []}},
    )
    data = read(root)
    assert data.categories.names == ("7",) and data.notes[NUMBERED] == 1 and data.empty().tolist() == [False, True]


def test_images_without_objects_are_left_out_and_counted(tmp_path: Path):
    root = written(tmp_path, {"file_name": "a.jpg", "objects": [{"bbox": BOX, "label": "dog"}]}, {"file_name": "b.png"})
    data = read(root)
    assert len(data) == 1 and data.notes[UNLABELLED] == 1


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ({"file_name": "a.jpg", "objects": {"bbox": [BOX, BOX], "category": ["dog"]}}, "object 2: has no class"),
        ({"file_name": "a.jpg", "objects": {"bbox": [BOX], "category": [True]}}, "object 1: has no class"),
        (
            {"file_name": "a.jpg", "objects": {"bbox": [BOX[:3]], "category": ["dog"]}},
            r"object 1: its box \[10, 5, 20\]",
        ),
        ({"objects": {"bbox": [BOX], "category": ["dog"]}, "x_file_name": 3}, "line 1: has no name of an image"),
        (
            {"file_name": "a.jpg", "objects": {"bounding_box": [BOX], "name": ["dog"]}},
            "line 1: its objects have bounding_box, name, but no field bbox; rename",
        ),
        ({"file_name": "a.jpg", "objects": [{"xyxy": BOX}]}, "line 1: its objects have xyxy, but no field bbox"),
        ({"file_name": "a.jpg", "objects": "dog"}, "line 1: the field objects holds no objects"),
        ({"file_name": "a.jpg", "objects": {"bbox": BOX, "label": "dog"}}, "line 1: its boxes or classes are no list"),
        ('{"file_name": "a.jpg", "objects": ', "line 1: is not a JSON object"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: Any, error: str):
    with pytest.raises(UserError, match=f"metadata.jsonl: {error}"):
        read(written(tmp_path, line))


@pytest.mark.parametrize("label", ["2", '"bird"'])
def test_a_class_that_the_card_does_not_name_is_refused(label: str, tmp_path: Path):
    EXPORTS["hugging-face"][1](tmp_path)
    path = tmp_path / "data" / "train" / "metadata.jsonl"
    path.write_text(path.read_text().replace("[1, 0]", f"[1, {label}]"))
    with pytest.raises(UserError, match=r"object 2: its class (2|bird) is not one of the 2 in README.md"):
        open_split(tmp_path, "train")


def test_captions_are_no_boxes(tmp_path: Path):
    assert layout_of(written(tmp_path, {"file_name": "a.jpg", "text": "a dog"})) is None
