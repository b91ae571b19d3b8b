"""COCO's instances painted as label maps, on the fly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from backbones.errors import UserError
from segmentation.coco_file import Record, read_instances
from segmentation.data import read_image
from segmentation.labels import VOC_CLASSES, Classes
from segmentation.losses import IGNORE
from segmentation.outlines import paint

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
        image = read_image(self.file(row))
        height, width = self.size(row)
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{self.file(row)}: is {image.shape[1]}x{image.shape[0]} pixels, but the annotations "
                f"say {width}x{height}; outlines would not fit; mend the JSON or the file"
            )
        return image

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
