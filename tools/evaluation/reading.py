"""Reads COCO ground truth and results. Well-formed files are parsed fast; in other files each record is checked."""

from __future__ import annotations

import json
import os
import reprlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from backbones.common.coco import AnnotationRecord, ImageRecord, InstancesFile
from backbones.common.datasets import is_text
from backbones.errors import UserError

if TYPE_CHECKING:
    from hotcoco import COCO

TruthSource = Path | dict[str, object]  # a file, or its content
Record = Mapping[str, object]  # a JSON object that is not checked yet
RESULT_FIELDS = ("image_id", "category_id", "bbox", "score")
# These fields change how an engine treats a results file, so files that contain one are parsed record by record.
FOREIGN_RESULT_FIELDS = ("area", "segmentation", "iscrowd", "id", "ignore")
SIDES = ("width", "height")
MOST_EXACT = 2**53  # float64 cannot represent larger ids exactly, and detections are rows of float64
MOST_PIXELS = 2**30  # in an image; OpenCV refuses larger ones
MOST_NUMBER = 1e300  # of coordinates and scores; the product of two such numbers overflows
ODD_NUMBERS = (b"NaN", b"Infinity", b"null")
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


def read_truth(source: TruthSource) -> InstancesFile:
    """Return the ground truth with the fields that the evaluation of boxes needs. `area` and `iscrowd` are filled in.

    Annotations get the ids 1..N, because pycocotools treats a match with annotation 0 as no match.

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
    annotations = [_annotation(record, number, sizes, names, where) for number, record in enumerate(given)]
    return {
        "images": [_image(record, sizes) for record in images],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in names.items()],
    }


def truth_is_plain(path: Path, gt: COCO) -> bool:
    """Return whether the file that hotcoco parsed as `gt` has all fields, so that `read_truth` is not needed.

    The test counts field names in the raw text, which takes milliseconds; parsing takes seconds. If a file might lack a
    field, `read_truth` reads it; the errors of `read_truth` name the faulty record.
    """
    raw = read_bytes(path)
    ids = gt.get_ann_ids()
    images, categories = gt.get_img_ids(), gt.get_cat_ids()
    fields = ("area", "iscrowd", "bbox", "category_id")
    return (
        all(_count(raw, name) == len(ids) for name in fields)
        and _count(raw, "ignore") == 0
        and not any(word in raw for word in ODD_NUMBERS)
        and all(f'"{key}"'.encode() in raw for key in ("images", "annotations", "categories"))
        and len(set(ids)) == len(ids)
        and 0 not in ids
        and max([*ids, *images, *categories], default=0) < MOST_EXACT
        and len(set(images)) == len(images)
        and len(set(categories)) == len(categories)
        and _all_within(gt, ids, images, categories)
    )


def load_plain_results(path: Path, gt: COCO) -> COCO | None:
    """Parse a results file with hotcoco; return None if the file must be checked record by record."""
    raw = read_bytes(path)
    count = _count(raw, "score")
    doubtful = (
        raw[:64].lstrip()[:1] != b"["
        or count == 0
        or any(_count(raw, name) != count for name in RESULT_FIELDS)
        or any(_count(raw, name) for name in FOREIGN_RESULT_FIELDS)
        or any(word in raw for word in ODD_NUMBERS)
    )
    del raw
    if doubtful:
        return None
    try:
        with native_stderr_silenced():  # hotcoco reports unknown categories on stderr
            dt = gt.load_res(str(path))
    except (ValueError, OSError):
        return None
    ids = dt.get_ann_ids()
    known = dt.get_ann_ids(img_ids=gt.get_img_ids()) if gt.get_img_ids() else []
    return dt if len(ids) == len(known) == count else None


def read_results(source: Path | Sequence[Record]) -> np.ndarray:
    """Read COCO results as rows [N, 7]: image id, x, y, width, height, score, category id.

    Raises:
        UserError: if a record is malformed; the error names the file and the record.
    """
    where = str(source) if isinstance(source, Path) else "detections"
    records = read_json(source) if isinstance(source, Path) else source
    if isinstance(records, (str, dict)) or not isinstance(records, Sequence):
        raise UserError(
            f"{where}: COCO results must be a JSON list, not {_kind(records)}; check whether the two files are swapped"
        )
    rows = [_result(record, number, where) for number, record in enumerate(records)]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


@contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Context manager that discards what compiled code writes to file descriptor 2. Exceptions are raised as usual."""
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def _count(raw: bytes, name: str) -> int:
    return raw.count(f'"{name}"'.encode())


def _all_within(gt: COCO, ids: list[int], images: list[int], categories: list[int]) -> bool:
    """Return whether each of the annotations `ids` has one of `images` and one of `categories`.

    Empty lists are handled first, because hotcoco reads an empty list as "no filter".
    """
    if not images or not categories:
        return not ids
    return len(gt.get_ann_ids(img_ids=images, cat_ids=categories)) == len(ids)


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


def _image(record: Record, sizes: Mapping[int, tuple[float, float]]) -> ImageRecord:
    """Return a checked image record: id, size and, if the record has one, file name."""
    key = int(record["id"])  # type: ignore[call-overload]
    width, height = sizes[key]
    image: ImageRecord = {"id": key, "width": width, "height": height}
    name = record.get("file_name")
    return {**image, "file_name": name} if isinstance(name, str) and is_text(name) else image


def _names(categories: list[Record], where: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, record in enumerate(categories):
        key = _integer(record, "id", f"{where}: categories[{number}]")
        if key in names:
            raise UserError(f"{where}: categories[{number}]: id {key} is a duplicate; give each category a unique id")
        names[key] = str(record.get("name", key))
        if names[key].encode(errors="ignore").decode() != names[key]:  # half of a pair of surrogates
            text = reprlib.repr(names[key])
            raise UserError(
                f"{where}: categories[{number}]: `name` is {text}, which is not valid Unicode; fix the name"
            )
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
    area = _mask_area(record.get("segmentation"), sizes[image], box) if area is None else _number(area, record_name)
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


def _mask_area(segmentation: object, size: tuple[float, float], box: list[float]) -> float:
    """Return the area of an object's mask in pixels, or the area of its box if it has no usable mask."""
    from hotcoco import mask  # pycocotools hangs or crashes on some malformed polygons

    width, height = size
    try:
        if isinstance(segmentation, list) and segmentation and 0 < width * height <= MOST_PIXELS:
            polygons = [_near(polygon, width, height) for polygon in segmentation]
            return float(mask.area(mask.merge(mask.frPyObjects(polygons, int(height), int(width)))))
        if isinstance(segmentation, dict):
            return float(mask.area({name: segmentation[name] for name in ("size", "counts")}))
    except (KeyError, TypeError, ValueError, OverflowError):
        pass  # the mask cannot be decoded: use the box
    return box[2] * box[3]


def _near(polygon: object, width: float, height: float) -> list[float]:
    """Clip a polygon to the image and a margin of the image's size. Points farther away only cost memory."""
    points = np.array(polygon, np.float64).reshape(-1, 2)
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError("not a polygon")
    return points.clip((-width, -height), (2 * width, 2 * height)).ravel().tolist()


def _result(record: Record, number: int, where: str) -> tuple[float, ...]:
    record_name = f"{where}: result {number}"
    image, category = _integer(record, "image_id", record_name), _integer(record, "category_id", record_name)
    box = _box(record, record_name)
    if "score" not in record:
        raise UserError(f"{record_name}: `score` is missing; each result needs {', '.join(RESULT_FIELDS)}")
    return (image, *box, _number(record["score"], f"{record_name}: score"), category)


def _integer(record: object, key: str, record_name: str) -> int:
    if not isinstance(record, dict):
        raise UserError(f"{record_name}: expected an object, got {_kind(record)}; each record is a JSON object")
    value = record.get(key)
    if _is_number(value) and -MOST_EXACT < value < MOST_EXACT and value == int(value):
        return int(value)
    raise UserError(
        f"{record_name}: `{key}` is {reprlib.repr(value)}, not an integer below 2^53; use whole numbers as ids"
    )


def _box(record: Record, record_name: str) -> list[float]:
    box = record.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise UserError(f"{record_name}: `bbox` is {reprlib.repr(box)}; write [x, y, width, height] in pixels")
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
