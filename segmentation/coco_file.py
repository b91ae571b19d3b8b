"""Reading COCO's instances file for label maps, and what may be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from backbones.errors import UserError

Record = dict[str, Any]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < 2**31


FIELDS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "images": {
        "id": (_is_id, "a whole number"),
        "file_name": (lambda value: isinstance(value, str), "a text"),
        "height": (_is_side, "a number of pixels"),
        "width": (_is_side, "a number of pixels"),
    },
    "categories": {"id": (_is_id, "a whole number"), "name": (lambda value: isinstance(value, str), "a text")},
    "annotations": {
        "id": (_is_id, "a whole number"),
        "image_id": (_is_id, "a whole number"),
        "category_id": (_is_id, "a whole number"),
        "segmentation": (lambda value: isinstance(value, (list, dict)) and bool(value), "polygons or run lengths"),
    },
}


def read_instances(path: Path) -> dict[str, list[Record]]:
    """The lists `images`, `categories` and `annotations` of a file, each record with the fields that label maps need.

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
    _refuse_twice((category["name"] for category in data["categories"]), f"{path}: categories: name")
    _check_references(data, path)
    return data


def _check_records(records: Any, kind: str, path: Path) -> None:
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: has no list `{kind}`; a COCO instances file has {', '.join(FIELDS)}")
    for record in records:
        for field, (holds, wanted) in FIELDS[kind].items():
            if not holds(record.get(field)):
                found = f"is {record[field]!r}" if field in record else "is missing"
                name = f"{path}: {kind[:-1] if kind != 'categories' else 'category'} {record.get('id', record)}"
                raise UserError(f"{name}: `{field}` {found}; expected {wanted}")


def _check_references(data: dict[str, list[Record]], path: Path) -> None:
    images, categories = ({record["id"] for record in data[kind]} for kind in ("images", "categories"))
    for annotation in data["annotations"]:
        for field, known in (("image_id", images), ("category_id", categories)):
            if annotation[field] not in known:
                raise UserError(
                    f"{path}: annotation {annotation['id']}: `{field}` {annotation[field]} is not in the file; mend it"
                )


def _refuse_twice(values: Iterable[Any], where: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{where} {value} stands twice; mend the file")
        seen.add(value)
