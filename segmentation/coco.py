"""COCO's instances painted as label maps, on the fly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backbones.errors import UserError
from segmentation.data import read_image
from segmentation.labels import VOC_CLASSES, Classes
from segmentation.losses import IGNORE

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

    Raises:
        UserError: naming the file and the record that is malformed, or VOC's category that is absent.
    """

    def __init__(self, path: Path, folder: Path, *, chosen: Chosen = "all") -> None:
        data = _read(path)
        self.where, self.folder = str(path), folder
        self.classes, numbers = _classes(data["categories"], chosen, path)
        images = sorted(data["images"], key=lambda image: image["id"])
        self._names = np.array([image["file_name"] for image in images])
        self._sizes = np.array([(image["height"], image["width"]) for image in images], np.int64)
        self.image_ids = np.array([image["id"] for image in images], np.int64)
        kept = sorted((a for a in data["annotations"] if a["category_id"] in numbers), key=lambda a: a["image_id"])
        rows = np.array([a["image_id"] for a in kept], np.int64)
        self._offsets = np.searchsorted(rows, [*self.image_ids, np.iinfo(np.int64).max])
        self._numbers = np.array([numbers[a["category_id"]] for a in kept], np.uint8)
        self._crowd = np.array([bool(a.get("iscrowd", 0)) for a in kept], bool)
        texts = [json.dumps(a.get("segmentation") or [], separators=(",", ":")).encode() for a in kept]
        self._ends = np.cumsum([0, *map(len, texts)])
        self._text = np.frombuffer(b"".join(texts), np.uint8)
        strange = np.setdiff1d(rows, self.image_ids)
        if len(strange):
            raise UserError(f"{path}: annotations of image {strange[0]}, which `images` does not list; mend the file")

    def __len__(self) -> int:
        return len(self._names)

    def image(self, row: int) -> np.ndarray:
        image = read_image(self.folder / self.name(row))
        height, width = self._sizes[row]
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{self.folder / self.name(row)}: is {image.shape[1]}x{image.shape[0]} pixels, but the annotations "
                f"say {width}x{height}; outlines would not fit; mend the JSON or the file"
            )
        return image

    def labels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        labels = np.zeros(size, np.uint8)
        instances = range(self._offsets[row], self._offsets[row + 1])
        masks = [(self._mask(i, size), self._numbers[i], self._crowd[i]) for i in instances]
        for mask, _, _ in (entry for entry in masks if entry[2]):
            labels[mask] = IGNORE
        claimed = np.zeros(size, np.uint8)
        for mask, number, _ in (entry for entry in masks if not entry[2]):
            claimed[mask] = np.where((claimed[mask] == 0) | (claimed[mask] == number), number, IGNORE)
        return np.where(claimed, claimed, labels)

    def name(self, row: int) -> str:
        return str(self._names[row])

    def _mask(self, instance: int, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` bool of one instance's pixels."""
        from pycocotools import mask as coco_mask

        outline = json.loads(self._text[self._ends[instance] : self._ends[instance + 1]].tobytes())
        try:
            return coco_mask.decode(_run_lengths(outline, size, coco_mask)).astype(bool).reshape(size)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.where}: an outline of record {instance} is malformed ({reason}); mend the file"
            ) from None


def _run_lengths(outline: Any, size: tuple[int, int], coco_mask: Any) -> Any:
    height, width = size
    if isinstance(outline, list):
        polygons = [polygon for polygon in outline if len(polygon) >= 6]
        parts = coco_mask.frPyObjects(polygons, height, width) if polygons else []
        return coco_mask.merge(parts) if parts else coco_mask.encode(np.zeros(size, np.uint8, order="F"))
    if list(outline["size"]) != [height, width]:
        raise ValueError(f"a mask of {outline['size']} for an image of {[height, width]}")
    return coco_mask.frPyObjects(outline, height, width) if isinstance(outline["counts"], list) else outline


def _classes(categories: Sequence[dict[str, Any]], chosen: Chosen, path: Path) -> tuple[Classes, dict[int, int]]:
    """The classes, and the class number of each category id."""
    ordered = sorted(categories, key=lambda category: category["id"])
    if chosen == "all":
        names = ["background", *(category["name"] for category in ordered)]
        return Classes.named(names), {category["id"]: number for number, category in enumerate(ordered, start=1)}
    ids = {category["name"]: category["id"] for category in ordered}
    absent = [name for name in VOC_IN_COCO if name not in ids]
    if absent:
        raise UserError(f"{path}: has no category {absent[0]}; --classes voc needs COCO's own categories")
    return Classes.named(VOC_CLASSES), {ids[name]: number for number, name in enumerate(VOC_IN_COCO, start=1)}


FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id"),
    "categories": ("id", "name"),
}


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    for kind, fields in FIELDS.items():
        records = data.get(kind) if isinstance(data, dict) else None
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise UserError(f"{path}: has no list `{kind}`; a COCO instances file has {', '.join(FIELDS)}")
        for field in fields:
            odd = next((record for record in records if field not in record), None)
            if odd is not None:
                raise UserError(f"{path}: {kind[:-1]} {odd.get('id', odd)} has no `{field}`")
    if not data["images"]:
        raise UserError(f"{path}: `images` is empty")
    return data
