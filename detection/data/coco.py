"""Reading COCO's instances file for boxes, record by record, and what may be wrong with it."""

from __future__ import annotations

import json
import os
import reprlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.datasets import is_file_name, is_text, leads_out
from backbones.errors import UserError

Record = dict[str, Any]
MOST_NUMBER = 1e300  # of coordinates: the sum of two is finite


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file whose top is an object.

    Raises:
        UserError: where it is missing, no JSON, or something else.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a {type(data).__name__}, not an object with `images` and `annotations`")
    _name_files(data.get("images"))
    return data


def _name_files(images: Any) -> None:
    """Give LVIS's images, which only have addresses, in both of COCO's folders, names such as val2017/1.jpg."""
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
            image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])


def records_of(data: dict[str, Any], name: str, path: Path) -> list[Record]:
    """The list of records `name`."""
    records = data.get(name)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: has no list `{name}`; a COCO instances file has images, annotations and categories")
    return records


def field(record: Record, name: str, kind: str, path: Path) -> Any:
    """A record's value; one whose name ends with `id` is a whole number."""
    if name not in record:
        raise UserError(f"{path}: {kind} {_name(record)} has no `{name}`")
    if name.endswith("id") and not _is_id(record[name]):
        raise _malformed(record, name, kind, path, "an integer below 2^53")
    return record[name]


def name_of_category(record: Record, path: Path) -> str:
    """What a category is called; numbers serve as names."""
    value = field(record, "name", "category", path)
    if not is_text(value) and (not isinstance(value, int) or isinstance(value, bool)):
        raise _malformed(record, "name", "category", path, "a text")
    return str(value)


def file_of_image(record: Record, path: Path, *, allow_outside: bool) -> str:
    """An image's file name, relative to the folder of images."""
    name = field(record, "file_name", "image", path)
    if not is_file_name(name):
        raise _malformed(record, "file_name", "image", path, "a file name")
    if leads_out(name) and not allow_outside:
        raise UserError(
            f"{path}: image {_name(record)}: `file_name` {reprlib.repr(name)} leads out of the image folder; mend the "
            "file, or pass --allow-outside true if you trust it"
        )
    return name


def side_of_image(record: Record, name: str, path: Path) -> int:
    """Height or width in whole pixels."""
    value = field(record, name, "image", path)
    if not is_number(value) or not 1 <= value < 2**31 or value != int(value):
        raise _malformed(record, name, "image", path, "a whole number of pixels")
    return int(value)


def box_of(record: Record, path: Path) -> list[float]:
    """`[x, y, width, height]`, finite."""
    box = field(record, "bbox", "annotation", path)
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise _malformed(record, "bbox", "annotation", path, "four numbers [x, y, w, h]")
    return box


def is_crowd(record: Record, path: Path) -> bool:
    """Whether an annotation is a crowd; without `iscrowd`, or with null, it is none."""
    value = record.get("iscrowd")
    if value is None:
        return False
    if not isinstance(value, (bool, int, float)) or value not in (0, 1):
        raise _malformed(record, "iscrowd", "annotation", path, "0 or 1")
    return bool(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, small enough to be added to another."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST_NUMBER


def refuse_duplicates(ids: Sequence[int], kind: str, path: Path) -> None:
    """Refuse ids of which one stands twice."""
    if len(set(ids)) < len(ids):
        twice = next(key for key, count in Counter(ids).items() if count > 1)
        raise UserError(f"{path}: {kind} id {twice} stands more than once; ids must be unique")


def refuse_absent_files(names: np.ndarray, folder: Path, path: Path) -> None:
    """Refuse names `[I]` of which one is no file in `folder`."""
    present = {entry.name for entry in os.scandir(folder) if entry.is_file()}
    for name in names.tolist():
        if name not in present and not os.path.isfile(folder / name):
            raise UserError(f"{path}: image file {name} is not in {folder}; mend the JSON, or pass --on-bad-image skip")


def _is_id(value: Any) -> bool:
    """Results carry ids as float64, which is exact up to there."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _malformed(record: Record, name: str, kind: str, path: Path, wanted: str) -> UserError:
    return UserError(f"{path}: {kind} {_name(record)}: `{name}` is {reprlib.repr(record[name])}, not {wanted}")


def _name(record: Record) -> str:
    """What to call a record: its id, or else as much of it as a line holds."""
    return reprlib.repr(record.get("id", record))
