"""Reads COCO ground truth and results, and checks each record. `plain` parses well-formed files faster."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from backbones.common.coco import AnnotationRecord, ImageRecord, InstancesFile
from backbones.common.datasets import COCO_FIELDS, category_name, field_problem
from backbones.common.values import is_text
from backbones.errors import UserError
from tools.evaluation.masks import mask_area, read_mask

TruthSource = Path | dict[str, object]  # a file, or its content
Record = Mapping[str, object]  # a JSON object that is not checked yet
RESULT_FIELDS = ("image_id", "category_id", "bbox", "score")
SIDES = ("width", "height")
MOST_EXACT = 2**53  # float64 cannot represent larger ids exactly, and detections are rows of float64
MOST_NUMBER = 1e300  # of coordinates and scores; the product of two such numbers overflows
NO_BOX = [float("nan")] * 4  # of a result with a mask alone
IMAGE, X, Y, W, H, SCORE, CATEGORY = range(7)  # columns of a detection row


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: if the file is missing, unreadable or not JSON.
    """
    content = read_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not a JSON file ({error}); write the file again") from None


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        UserError: if the file is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def read_truth(source: TruthSource, *, masks: bool = False) -> InstancesFile:
    """Return the ground truth with the fields that the evaluation needs. `area` and `iscrowd` are filled in.

    Annotations get the ids 1..N, because pycocotools treats a match with annotation 0 as no match.

    Args:
        masks: whether each annotation needs a mask, which is checked and returned as it is. A crowd without a mask has
            its box as its mask.

    Raises:
        UserError: if a record is malformed; the error names the file and the record.
    """
    where = "annotations" if isinstance(source, dict) else str(source)
    data = source if isinstance(source, dict) else read_json(source)
    if not isinstance(data, dict):
        raise UserError(
            f"{where}: COCO ground truth must be a JSON object, not {_kind(data)}; "
            "check whether the two files are swapped"
        )
    images, given, categories = (_list(data, key, where) for key in ("images", "annotations", "categories"))
    sizes, names = _sizes(images, where), _names(categories, where)
    if masks:
        _require_sizes(sizes, where)
    annotations = [_annotation(record, number, sizes, names, where) for number, record in enumerate(given)]
    if masks:
        for number, annotation in enumerate(annotations):
            width, height = sizes[annotation["image_id"]]
            outline = given[number].get("segmentation")
            if annotation["iscrowd"] and not outline:
                outline = _box_outline(annotation["bbox"])
            size, record_name = (int(height), int(width)), f"{where}: annotations[{number}]"
            annotation["segmentation"] = read_mask(outline, size, record_name)
    return {
        "images": [_image(record, sizes) for record in images],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in names.items()],
    }


def read_results(source: Path | Sequence[Record]) -> np.ndarray:
    """Read COCO results as rows [N, 7]: image id, x, y, width, height, score, category id.

    Raises:
        UserError: if a record is malformed; the error names the file and the record.
    """
    records, where = result_records(source)
    return result_rows(records, where)


def result_records(source: Path | Sequence[Record]) -> tuple[Sequence[Record], str]:
    """Return the records of COCO results, which are not checked yet, and the name of their source for messages.

    Raises:
        UserError: if the file is missing or does not hold a list.
    """
    where = str(source) if isinstance(source, Path) else "detections"
    records = read_json(source) if isinstance(source, Path) else source
    if isinstance(records, (str, dict)) or not isinstance(records, Sequence):
        raise UserError(
            f"{where}: COCO results must be a JSON list, not {_kind(records)}; check whether the two files are swapped"
        )
    return records, where


def result_rows(records: Sequence[Record], where: str, *, masks: bool = False) -> np.ndarray:
    """Return the checked fields of results as rows [N, 7]: image id, x, y, width, height, score, category id.

    Args:
        where: source of the records, for messages.
        masks: whether a record with a mask may lack its box; the box then is NaN.

    Raises:
        UserError: if a record is malformed.
    """
    rows = [_result(record, number, where, masks) for number, record in enumerate(records)]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def _list(data: Record, key: str, where: str) -> list[Record]:
    """Return one of the ground truth's lists, such as `images`, without checking its records."""
    records = data.get(key)
    if not isinstance(records, list):
        raise UserError(
            f"{where}: the list `{key}` is missing; COCO ground truth holds images, annotations and categories"
        )
    return records


def _sizes(images: list[Record], where: str) -> dict[int, tuple[float, float]]:
    """Return width and height of the images, by image id; (0, 0) if the file does not state them."""
    sizes: dict[int, tuple[float, float]] = {}
    for number, record in enumerate(images):
        key = _integer(record, "id", f"{where}: images[{number}]")
        if key in sizes:
            raise UserError(f"{where}: images[{number}]: id {key} is a duplicate; give each image a unique id")
        width, height = (_number(record.get(side) or 0, f"{where}: images[{number}]: {side}") for side in SIDES)
        sizes[key] = (width, height)
    return sizes


def _require_sizes(sizes: Mapping[int, tuple[float, float]], where: str) -> None:
    """Refuse images whose width or height is missing or no positive integer, because masks need them."""
    for key, size in sizes.items():
        if not all(side > 0 and side == int(side) for side in size):
            raise UserError(f"{where}: image {key}: `width` and `height` must be positive integers; masks need them")


def _box_outline(box: list[float]) -> list[list[float]]:
    """Return a box as a polygon."""
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _image(record: Record, sizes: Mapping[int, tuple[float, float]]) -> ImageRecord:
    """Return a checked image record: id, size and, if the record has one, file name."""
    key = int(record["id"])  # type: ignore[call-overload]
    width, height = (int(side) if side == int(side) else side for side in sizes[key])  # masks need integers
    image: ImageRecord = {"id": key, "width": width, "height": height}
    name = record.get("file_name")
    return {**image, "file_name": name} if isinstance(name, str) and is_text(name) else image


def _names(categories: list[Record], where: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, record in enumerate(categories):
        key = _integer(record, "id", f"{where}: categories[{number}]")
        if key in names:
            raise UserError(f"{where}: categories[{number}]: id {key} is a duplicate; give each category a unique id")
        name, rule = category_name(record), COCO_FIELDS["category"]["name"]
        if not rule.is_valid(name):
            raise UserError(f"{where}: categories[{number}]: {field_problem(record, 'name', rule.expected)}")
        names[key] = str(name)
    return names


def _annotation(
    record: Record, number: int, sizes: dict[int, tuple[float, float]], names: dict[int, str], where: str
) -> AnnotationRecord:
    record_name = f"{where}: annotations[{number}]"
    image, category = _integer(record, "image_id", record_name), _integer(record, "category_id", record_name)
    if image not in sizes:
        raise UserError(
            f"{record_name}: image_id {image} is not in `images`; add the image there or remove the annotation"
        )
    if category not in names:
        raise UserError(
            f"{record_name}: category_id {category} is not in `categories`; add the category there or remove the "
            "annotation"
        )
    box = _box(record, record_name)
    area = record.get("area")
    area = mask_area(record.get("segmentation"), sizes[image], box) if area is None else _number(area, record_name)
    crowd = record.get("iscrowd") or 0
    if not isinstance(crowd, (bool, int, float)) or crowd not in (0, 1):
        raise UserError(f"{record_name}: `iscrowd` is {reprlib.repr(crowd)}, not 0 or 1; fix the record")
    return {
        "id": number + 1,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": int(crowd),
    }


def _result(record: Record, number: int, where: str, masks: bool) -> tuple[float, ...]:
    record_name = f"{where}: result {number}"
    image, category = _integer(record, "image_id", record_name), _integer(record, "category_id", record_name)
    box = NO_BOX if masks and not record.get("bbox") else _box(record, record_name)
    if masks and record.get("segmentation") is None:
        raise UserError(f"{record_name}: `segmentation` is missing; add the masks, or evaluate boxes only")
    if "score" not in record:
        raise UserError(f"{record_name}: `score` is missing; each result needs {', '.join(RESULT_FIELDS)}")
    return (image, *box, _number(record["score"], f"{record_name}: score"), category)


def _integer(record: object, key: str, record_name: str) -> int:
    if not isinstance(record, dict):
        raise UserError(f"{record_name}: expected an object, got {_kind(record)}; each record is a JSON object")
    value = record.get(key)
    if _is_number(value) and -MOST_EXACT < value < MOST_EXACT and value == int(value):
        return int(value)
    found = reprlib.repr(value) if key in record else "missing"
    raise UserError(f"{record_name}: `{key}` is {found}, not an integer below 2^53; use whole numbers as ids")


def _box(record: Record, record_name: str) -> list[float]:
    box = record.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        found = reprlib.repr(box) if "bbox" in record else "missing"
        raise UserError(f"{record_name}: `bbox` is {found}; write [x, y, width, height] in pixels")
    return [_number(value, f"{record_name}: bbox") for value in box]


def _number(value: object, record_name: str) -> float:
    if not _is_number(value) or not abs(value) < MOST_NUMBER:
        raise UserError(f"{record_name} holds {reprlib.repr(value)}, not a finite number; fix or remove the record")
    return float(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")
