"""Reading COCO's instances file for label maps, and what may be wrong with it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from backbones.file_names import is_file_name, is_text, leads_out
from backbones.pictures import MOST_PIXELS

Record = dict[str, Any]
LONGEST_SIDE = 2**20  # OpenCV decodes no larger pictures


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_side(value: Any) -> bool:
    return _is_id(value) and 0 < value <= LONGEST_SIDE


def _is_title(value: Any) -> bool:
    return is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def _is_flag(value: Any) -> bool:
    return value is None or (isinstance(value, (bool, int, float)) and value in (0, 1))


FIELDS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "images": {
        "id": (_is_id, "a whole number"),
        "file_name": (is_file_name, "a file name"),
        "height": (_is_side, "a number of pixels"),
        "width": (_is_side, "a number of pixels"),
    },
    "categories": {"id": (_is_id, "a whole number"), "name": (_is_title, "a text")},
    "annotations": {
        "id": (_is_id, "a whole number"),
        "image_id": (_is_id, "a whole number"),
        "category_id": (_is_id, "a whole number"),
        "segmentation": (lambda value: isinstance(value, (list, dict)) and bool(value), "polygons or run lengths"),
        "iscrowd": (_is_flag, "0 or 1"),
    },
}


def read_instances(path: Path, *, allow_outside: bool = False) -> dict[str, list[Record]]:
    """The lists `images`, `categories` and `annotations` of a file, each record with the fields that label maps need.

    Args:
        allow_outside: take file names that lead out of the folder of images (absolute ones, and those with `..`).

    Raises:
        UserError: naming the file and the record: no JSON, a missing or malformed field (a file of boxes alone has no
            `segmentation`), ids or class names that stand twice, an annotation of an absent image or category.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    for kind in FIELDS:
        _check_records(data.get(kind) if isinstance(data, dict) else None, kind, path)
    if not data["images"]:
        raise UserError(f"{path}: `images` is empty")
    for kind in FIELDS:
        _refuse_twice((record["id"] for record in data[kind]), f"{path}: {kind}: id")
    _refuse_twice((str(category["name"]) for category in data["categories"]), f"{path}: categories: name")
    _check_references(data, path)
    for image in data["images"]:
        _refuse_large(image, path)
        if not allow_outside:
            _refuse_outside(image, path)
    return data


def _check_records(records: Any, kind: str, path: Path) -> None:
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: has no list `{kind}`; a COCO instances file has {', '.join(FIELDS)}")
    for record in records:
        for field, (holds, wanted) in FIELDS[kind].items():
            if not holds(record.get(field)):
                found = f"is {reprlib.repr(record[field])}" if field in record else "is missing"
                singular = "category" if kind == "categories" else kind[:-1]
                name = f"{path}: {singular} {reprlib.repr(record.get('id', record))}"
                raise UserError(f"{name}: `{field}` {found}; expected {wanted}")


def _check_references(data: dict[str, list[Record]], path: Path) -> None:
    images, categories = ({record["id"] for record in data[kind]} for kind in ("images", "categories"))
    for annotation in data["annotations"]:
        for field, known in (("image_id", images), ("category_id", categories)):
            if annotation[field] not in known:
                raise UserError(
                    f"{path}: annotation {annotation['id']}: `{field}` {annotation[field]} is not in the file; mend it"
                )


def _refuse_large(image: Record, path: Path) -> None:
    if image["height"] * image["width"] > MOST_PIXELS:
        raise UserError(
            f"{path}: image {image['id']}: {image['width']}x{image['height']} pixels are beyond any picture; mend the "
            "file"
        )


def _refuse_outside(image: Record, path: Path) -> None:
    if leads_out(image["file_name"]):
        raise UserError(
            f"{path}: image {image['id']}: `file_name` {reprlib.repr(image['file_name'])} leads out of the image "
            "folder; mend the file, or pass --allow-outside true if you trust it"
        )


def _refuse_twice(values: Iterable[Any], where: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{where} {reprlib.repr(value)} stands twice; mend the file")
        seen.add(value)
