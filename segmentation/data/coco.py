"""COCO's instances painted as label maps, on the fly."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backbones.common.datasets import is_file_name, is_text, leads_out
from backbones.common.images import MOST_PIXELS, read_image
from backbones.errors import UserError
from segmentation.data.labels import IGNORE, VOC_CLASSES, Classes
from segmentation.data.outlines import paint

Chosen = Literal["all", "voc"]


# What COCO calls the classes of Pascal VOC, in VOC's order.
VOC_IN_COCO = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv",
)  # fmt: skip


class CocoLabels:
    """The instances of a COCO file as label maps: background 0, then the categories in the order of their ids.

    Crowds, and pixels that instances of different classes claim, do not count. Outlines are kept as packed JSON text:
    millions of Python objects would be copied into each worker.

    Args:
        path: instances JSON; `folder`: its images.
        chosen: "all" categories, or those of Pascal VOC (21 classes in VOC's order; all others are background).
        allow_outside: take file names that lead out of `folder` (absolute ones, and those with `..`).

    Raises:
        UserError: naming the file and the record that is malformed, or VOC's category that is absent.
    """

    def __init__(self, path: Path, folder: Path, *, chosen: Chosen = "all", allow_outside: bool = False) -> None:
        data = read_instances(path, allow_outside=allow_outside)
        self.where, self.folder = str(path), folder
        self.classes, numbers = _classes(data["categories"], chosen, path)
        images = sorted(data["images"], key=lambda image: image["id"])
        self._names = np.array([image["file_name"] for image in images])
        self._sizes = np.array([(image["height"], image["width"]) for image in images], np.int64)
        self.image_ids = np.array([image["id"] for image in images], np.int64)
        kept = sorted((a for a in data["annotations"] if a["category_id"] in numbers), key=lambda a: a["image_id"])
        rows = np.array([a["image_id"] for a in kept], np.int64)
        self._offsets = np.searchsorted(rows, [*self.image_ids, np.iinfo(np.int64).max])
        self._ids = np.array([a["id"] for a in kept], np.int64)
        self._numbers = np.array([numbers[a["category_id"]] for a in kept], np.uint8)
        self._crowd = np.array([bool(a.get("iscrowd")) for a in kept], bool)
        texts = [_packed(annotation, path) for annotation in kept]
        self._ends = np.cumsum([0, *map(len, texts)])
        self._text = np.frombuffer(b"".join(texts), np.uint8)

    def __len__(self) -> int:
        return len(self._names)

    def image(self, row: int) -> np.ndarray:
        return read_image(self.file(row), apply_exif=False, size=self.size(row))

    def labels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        crowds, claimed = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        for instance in range(self._offsets[row], self._offsets[row + 1]):
            mask, number = self._mask(instance, size), self._numbers[instance]
            if self._crowd[instance]:
                crowds[mask] = IGNORE
            else:
                claimed[mask] = np.where((claimed[mask] == 0) | (claimed[mask] == number), number, IGNORE)
        return np.where(claimed, claimed, crowds)

    def file(self, row: int) -> Path:
        return self.folder / str(self._names[row])

    def size(self, row: int) -> tuple[int, int]:
        height, width = self._sizes[row]
        return int(height), int(width)

    def _mask(self, instance: int, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` bool of one instance's pixels."""
        outline = json.loads(self._text[self._ends[instance] : self._ends[instance + 1]].tobytes())
        try:
            return paint(outline, size)
        except ValueError as error:
            raise UserError(
                f"{self.where}: annotation {self._ids[instance]}: `segmentation` is malformed ({error}); mend the file"
            ) from None


def _packed(annotation: Record, path: Path) -> bytes:
    """An outline as JSON without blanks."""
    try:
        return json.dumps(annotation["segmentation"], separators=(",", ":")).encode()
    except RecursionError:
        raise UserError(
            f"{path}: annotation {annotation['id']}: `segmentation` is nested too deep; mend the file"
        ) from None


def _classes(categories: Sequence[Record], chosen: Chosen, path: Path) -> tuple[Classes, dict[int, int]]:
    """The classes, and the class number of each category id."""
    ordered = sorted(categories, key=lambda category: category["id"])
    if chosen == "all":
        if not 0 < len(ordered) < IGNORE:
            raise UserError(f"{path}: has {len(ordered)} categories; label maps of bytes hold 1 to {IGNORE - 1}")
        names = ["background", *(str(category["name"]) for category in ordered)]
        return Classes.named(names), {category["id"]: number for number, category in enumerate(ordered, start=1)}
    ids = {category["name"]: category["id"] for category in ordered}
    absent = [name for name in VOC_IN_COCO if name not in ids]
    if absent:
        raise UserError(f"{path}: has no category {absent[0]}; --classes voc needs COCO's own categories")
    return Classes.named(VOC_CLASSES), {ids[name]: number for number, name in enumerate(VOC_IN_COCO, start=1)}


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
