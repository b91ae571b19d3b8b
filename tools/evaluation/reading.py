"""Reading COCO ground truth and results: complete, checked, and quick for big well-formed files."""

from __future__ import annotations

import json
import os
import reprlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError

Record = dict[str, Any]
RESULT_FIELDS = ("image_id", "category_id", "bbox", "score")
# An occurrence of these in a results file changes what an engine does with it, so such files are parsed here.
FOREIGN_RESULT_FIELDS = ("area", "segmentation", "iscrowd", "id", "ignore")
SIDES = ("width", "height")
MOST_EXACT = 2**53  # larger ids have no float64 of their own, and detections are rows of float64
MOST_PIXELS = 2**30  # of a picture; OpenCV decodes no larger one
MOST_NUMBER = 1e300  # of coordinates and scores: products of two overflow far above
ODD_NUMBERS = (b"NaN", b"Infinity", b"null")
IMAGE, X, Y, W, H, SCORE, CATEGORY = range(7)  # columns of a detection row


def read_json(path: Path) -> Any:
    """Raises: UserError when the file is absent, unreadable or not JSON."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error}); write it again") from None


def read_bytes(path: Path) -> bytes:
    """Raises: UserError when the file is absent or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from None


def read_truth(source: Path | Record) -> Record:
    """Ground truth reduced to what box evaluation needs, with `area` and `iscrowd` filled in and ids 1..N.

    The ids are counted anew because the reference evaluator takes a match with annotation 0 for no match.

    Raises:
        UserError: naming the file and the record that is malformed.
    """
    where = "annotations" if isinstance(source, dict) else str(source)
    data = source if isinstance(source, dict) else read_json(source)
    if not isinstance(data, dict):
        raise UserError(f"{where}: ground truth is a JSON object, not {_kind(data)}; was it swapped with results?")
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise UserError(f"{where}: no list `{key}`; COCO ground truth holds images, annotations, categories")
    sizes = _sizes(data["images"], where)
    names = _names(data["categories"], where)
    annotations = [
        _annotation(record, number, sizes, names, where) for number, record in enumerate(data["annotations"])
    ]
    images = [{"id": key, "width": size[0], "height": size[1]} for key, size in sizes.items()]
    categories = [{"id": key, "name": name} for key, name in names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def truth_is_plain(path: Path, gt: Any) -> bool:
    """Whether `gt`, hotcoco's own reading of a file, needs nothing from `read_truth`.

    Counting the fields in the raw text costs milliseconds where parsing costs seconds; a doubtful file is just
    read the slow way, which also finds the words for what is wrong with it.
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


def load_plain_results(path: Path, gt: Any) -> Any | None:
    """Hotcoco's own reading of a results file, or None where it must be checked record by record."""
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
        with native_stderr_silenced():  # hotcoco tells of unknown categories there
            dt = gt.load_res(str(path))
    except (ValueError, OSError):
        return None
    ids = dt.get_ann_ids()
    known = dt.get_ann_ids(img_ids=gt.get_img_ids()) if gt.get_img_ids() else []
    return dt if len(ids) == len(known) == count else None


def read_results(source: Path | Sequence[Record]) -> np.ndarray:
    """COCO results as rows [N, 7]: image id, x, y, width, height, score, category id.

    Raises:
        UserError: naming the file and the record that is malformed.
    """
    where = str(source) if isinstance(source, Path) else "detections"
    records = read_json(source) if isinstance(source, Path) else source
    if isinstance(records, (str, dict)) or not isinstance(records, Sequence):
        raise UserError(f"{where}: COCO results are a JSON list, not {_kind(records)}; was it swapped with truth?")
    rows = [_result(record, number, where) for number, record in enumerate(records)]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


@contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Keep quiet what compiled code writes to file descriptor 2; exceptions pass as ever."""
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


def _all_within(gt: Any, ids: list[int], images: list[int], categories: list[int]) -> bool:
    """Whether each annotation names a known image and category. An empty list would mean "no filter"."""
    if not images or not categories:
        return not ids
    return len(gt.get_ann_ids(img_ids=images, cat_ids=categories)) == len(ids)


def _sizes(images: list[Record], where: str) -> dict[int, tuple[float, float]]:
    """Width and height by image id; 0, 0 where the file does not say."""
    sizes: dict[int, tuple[float, float]] = {}
    for number, record in enumerate(images):
        key = _integer(record, "id", f"{where}: images[{number}]")
        if key in sizes:
            raise UserError(f"{where}: images[{number}]: id {key} is there twice; give each image its own id")
        width, height = (_number(record.get(side) or 0, f"{where}: images[{number}]: {side}") for side in SIDES)
        sizes[key] = (width, height)
    return sizes


def _names(categories: list[Record], where: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, record in enumerate(categories):
        key = _integer(record, "id", f"{where}: categories[{number}]")
        if key in names:
            raise UserError(f"{where}: categories[{number}]: id {key} is there twice; give each its own id")
        names[key] = str(record.get("name", key))
        if names[key].encode(errors="ignore").decode() != names[key]:  # half of a pair of surrogates
            text = reprlib.repr(names[key])
            raise UserError(f"{where}: categories[{number}]: `name` is {text}, which no file can hold; mend it")
    return names


def _annotation(
    record: Record, number: int, sizes: dict[int, tuple[float, float]], names: dict[int, str], where: str
) -> Record:
    place = f"{where}: annotations[{number}]"
    image, category = _integer(record, "image_id", place), _integer(record, "category_id", place)
    if image not in sizes:
        raise UserError(f"{place}: image_id {image} is not in `images`; add the image or remove the annotation")
    if category not in names:
        raise UserError(f"{place}: category_id {category} is not in `categories`; add it or remove the annotation")
    box = _box(record, place)
    area = record.get("area")
    area = _mask_area(record.get("segmentation"), sizes[image], box) if area is None else _number(area, place)
    crowd = record.get("iscrowd") or 0
    if not isinstance(crowd, (bool, int, float)) or crowd not in (0, 1):
        raise UserError(f"{place}: `iscrowd` is {reprlib.repr(crowd)}, not 0 or 1; repair the record")
    return {
        "id": number + 1,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": int(crowd),
    }


def _mask_area(segmentation: Any, size: tuple[float, float], box: list[float]) -> float:
    """Pixels of the mask, as COCO's own `area`; of the box where there is no usable mask."""
    from hotcoco import mask  # pycocotools' never ends, or ends the process, over some malformed outlines

    width, height = size
    try:
        if isinstance(segmentation, list) and segmentation and 0 < width * height <= MOST_PIXELS:
            polygons = [_near(polygon, width, height) for polygon in segmentation]
            return float(mask.area(mask.merge(mask.frPyObjects(polygons, int(height), int(width)))))
        if isinstance(segmentation, dict):
            return float(mask.area({name: segmentation[name] for name in ("size", "counts")}))
    except (KeyError, TypeError, ValueError, OverflowError):
        pass  # the box stands in for a mask that cannot be decoded
    return box[2] * box[3]


def _near(polygon: Any, width: float, height: float) -> list[float]:
    """A polygon whose points are no further away than an image; others would cost memory and cover no pixel."""
    points = np.array(polygon, np.float64).reshape(-1, 2)
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError("no polygon")
    return points.clip((-width, -height), (2 * width, 2 * height)).ravel().tolist()


def _result(record: Record, number: int, where: str) -> tuple[float, ...]:
    place = f"{where}: result {number}"
    image, category = _integer(record, "image_id", place), _integer(record, "category_id", place)
    box = _box(record, place)
    if "score" not in record:
        raise UserError(f"{place}: no `score`; each result has {', '.join(RESULT_FIELDS)}")
    return (image, *box, _number(record["score"], f"{place}: score"), category)


def _integer(record: Any, key: str, place: str) -> int:
    if not isinstance(record, dict):
        raise UserError(f"{place}: expected an object, got {_kind(record)}; write it as COCO's format page says")
    value: Any = record.get(key)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not -MOST_EXACT < value < MOST_EXACT:
        raise UserError(f"{place}: `{key}` is {reprlib.repr(value)}, not an integer below 2^53; ids are whole numbers")
    return int(value)


def _box(record: Record, place: str) -> list[float]:
    box = record.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise UserError(f"{place}: `bbox` is {reprlib.repr(box)}; box evaluation needs [x, y, width, height] in pixels")
    return [_number(value, f"{place}: bbox") for value in box]


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MOST_NUMBER:
        raise UserError(f"{place} holds {reprlib.repr(value)}, not a finite number; repair or remove the record")
    return float(value)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")
