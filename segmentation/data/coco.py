"""Paints label maps from the objects of a COCO file while they are read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from backbones.common.datasets import (
    ODD_IDS,
    SIZES_READ,
    Record,
    count_odd_ids,
    field,
    file_of_image,
    files_in,
    read_coco,
    records_of,
    refuse_duplicates,
)
from backbones.common.image_finder import renamed_note, use_fitting_files
from backbones.common.images import MOST_PIXELS, complete_size, read_image
from backbones.common.outlines import paint
from backbones.errors import UserError, counted
from segmentation.data.classes import IGNORE, VOC_CLASSES, Classes

# COCO's names of the classes of Pascal VOC, in VOC's order.
VOC_IN_COCO = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv",
)  # fmt: skip
# Kind of record -> the fields that label maps need.
NEEDED = {
    "image": ("id", "file_name", "height", "width"),
    "category": ("id", "name"),
    "annotation": ("image_id", "category_id", "segmentation", "iscrowd"),
}


class CocoLabels:
    """Label maps of a COCO file. The background is class 0; the categories follow in the order of their ids.

    Pixels of crowds are ignored, and so are pixels that belong to objects of different classes.

    Args:
        path: instances JSON file.
        folder: folder of the images.
        chosen: "all" categories, or "voc" for those of Pascal VOC: 21 classes in VOC's order, others are background.
        allow_outside: accept file names that lead out of `folder` (absolute ones, and those with `..`).
        bits: bits that the values of 16-bit images use.

    Raises:
        UserError: a record is malformed, or a category of VOC is missing; the message names the file and the record.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        *,
        chosen: Literal["all", "voc"] = "all",
        allow_outside: bool = False,
        bits: int = 16,
    ) -> None:
        notes = Counter[str]()
        data = read_instances(path, folder, allow_outside=allow_outside, notes=notes)
        self.where, self.folder, self.bits, self.in_channels = str(path), folder, bits, 3
        self.notes: Mapping[str, int] = notes
        self.passed_over: Mapping[str, int] = {}  # the file names its images
        self.classes, numbers = _classes(data["categories"], chosen, path)
        # Pack everything into arrays: reading Python objects would copy their memory into each worker.
        images = sorted(data["images"], key=lambda image: image["id"])
        self._names = np.array([image["file_name"] for image in images])
        self._sizes = np.array([(image["height"], image["width"]) for image in images], np.int64)
        self.image_ids = np.array([image["id"] for image in images], np.int64)
        annotations = data["annotations"]
        order = [place for place, record in enumerate(annotations) if record["category_id"] in numbers]
        order.sort(key=lambda place: annotations[place]["image_id"])
        kept = [annotations[place] for place in order]
        rows = np.array([a["image_id"] for a in kept], np.int64)
        # The objects of image i are offsets[i] to offsets[i + 1].
        self._offsets = np.searchsorted(rows, [*self.image_ids, np.iinfo(np.int64).max])
        self._places = np.array(order, np.int64)  # in the file's list
        self._numbers = np.array([numbers[a["category_id"]] for a in kept], np.uint8)
        self._crowd = np.array([bool(a.get("iscrowd")) for a in kept], bool)
        # The outline of object i is the JSON text from ends[i] to ends[i + 1].
        texts = [_packed(annotation, place, path) for annotation, place in zip(kept, order, strict=True)]
        self._ends = np.cumsum([0, *map(len, texts)])
        self._text = np.frombuffer(b"".join(texts), np.uint8)

    def __len__(self) -> int:
        return len(self._names)

    def image(self, row: int) -> np.ndarray:
        return read_image(self.file(row), apply_exif=False, size=self.size(row), bits=self.bits)

    def labels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        # Masks lie in memory column by column, so work on the transposed label map.
        crowds, claimed = (np.zeros(size[::-1], np.uint8) for _ in range(2))
        for index in range(self._offsets[row], self._offsets[row + 1]):
            mask, number = self._mask(index, size).T, self._numbers[index]
            # Most objects are small: look only at the window around their pixels.
            x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
            window = slice(y, y + height), slice(x, x + width)
            mask = mask[window]
            if self._crowd[index]:
                np.copyto(crowds[window], IGNORE, where=mask)
                continue
            # A pixel keeps its class if it is free or has the same class; pixels of two classes are ignored.
            before = claimed[window]
            taken = mask & (before != 0) & (before != number)
            np.copyto(before, number, where=mask)
            np.copyto(before, IGNORE, where=taken)
        # Objects lie above crowds.
        return np.ascontiguousarray(np.where(claimed, claimed, crowds).T)

    def file(self, row: int) -> Path:
        return self.folder / str(self._names[row])

    def size(self, row: int) -> tuple[int, int]:
        height, width = self._sizes[row]
        return int(height), int(width)

    def _mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Return the pixels of one object `[H, W]` bool."""
        outline = json.loads(self._text[self._ends[index] : self._ends[index + 1]].tobytes())
        try:
            return paint(outline, size)
        except ValueError as error:
            raise UserError(
                f"{self.where}: annotations[{self._places[index]}]: `segmentation` is malformed ({error}); fix the file"
            ) from None


def read_instances(
    path: Path, folder: Path, *, allow_outside: bool = False, notes: Counter[str]
) -> dict[str, list[Record]]:
    """Read the lists `images`, `categories` and `annotations` of a COCO file and check the fields for label maps.

    Images whose file is missing get the name of the one file that fits; see `use_fitting_files`.

    Args:
        path: instances JSON file.
        folder: of the images. If a record has no width or no height, the size is read from the image file.
        allow_outside: accept file names that lead out of the image folder (absolute ones, and those with `..`).
        notes: counts harmless differences by description: replaced names, missing sizes, and ids of annotations
            that are missing or repeated, to which nothing refers.

    Raises:
        UserError: the file is not JSON, a field is missing or malformed (a file of boxes only has no `segmentation`),
            an id of an image or category or a class name is a duplicate, or an annotation belongs to no image or
            category of the file.
    """
    data = read_coco(path)
    lists = {name: records_of(data, name, path) for name in ("images", "categories", "annotations")}
    kinds = dict(zip(NEEDED, lists.values(), strict=True))
    if folder.is_dir():
        present = files_in(folder)
        notes.update(
            renamed_note(use_fitting_files(lists["images"], path, folder, present=present, allow_outside=allow_outside))
        )
    for image in lists["images"]:
        if _complete_size(image, path, folder, allow_outside=allow_outside):
            notes[SIZES_READ] += 1
    for kind, records in kinds.items():
        for record in records:
            for name in NEEDED[kind]:
                field(record, kind, name, path)
    if not lists["images"]:
        raise UserError(f"{path}: `images` is empty; label maps need images")
    for kind in ("image", "category"):
        refuse_duplicates((record["id"] for record in kinds[kind]), f"{kind} id", path)
    if odd := count_odd_ids(lists["annotations"]):
        notes[ODD_IDS] += odd
    refuse_duplicates((str(category["name"]) for category in lists["categories"]), "category name", path)
    _check_references(lists, path)
    for image in lists["images"]:
        _refuse_large(image, path)
        file_of_image(image, path, allow_outside=allow_outside)
    return lists


def _complete_size(image: Record, path: Path, folder: Path, *, allow_outside: bool) -> bool:
    """If an image's record has no width or no height, read the image's size from its file. Return whether it did."""
    if image.get("width") is not None and image.get("height") is not None:
        return False
    for name in ("id", "file_name"):
        field(image, "image", name, path)
    file_of_image(image, path, allow_outside=allow_outside)
    return complete_size(image, folder)


def _packed(annotation: Record, place: int, path: Path) -> bytes:
    """Return the outline of the annotation at `place` in the file's list as JSON without spaces."""
    try:
        return json.dumps(annotation["segmentation"], separators=(",", ":")).encode()
    except RecursionError:
        raise UserError(f"{path}: annotations[{place}]: `segmentation` is nested too deeply; fix the file") from None


def _classes(categories: Sequence[Record], chosen: Literal["all", "voc"], path: Path) -> tuple[Classes, dict[int, int]]:
    """Return the classes of the label maps, and a dict from category ids to class numbers."""
    ordered = sorted(categories, key=lambda category: category["id"])
    if chosen == "all":
        if not 0 < len(ordered) < IGNORE:
            raise UserError(
                f"{path}: has {counted(len(ordered), 'category')}, but label maps can hold only 1 to {IGNORE - 1}; "
                "use --classes voc, or change the file"
            )
        names = ["background", *(str(category["name"]) for category in ordered)]
        return Classes.named(names), {category["id"]: number for number, category in enumerate(ordered, start=1)}
    ids = {category["name"]: category["id"] for category in ordered}
    absent = [name for name in VOC_IN_COCO if name not in ids]
    if absent:
        raise UserError(f"{path}: has no category {absent[0]}, which --classes voc needs; use --classes all")
    return Classes.named(VOC_CLASSES), {ids[name]: number for number, name in enumerate(VOC_IN_COCO, start=1)}


def _check_references(data: dict[str, list[Record]], path: Path) -> None:
    """Refuse annotations whose image or category is not in the file."""
    fields = {"image_id": "images", "category_id": "categories"}
    known = {kind: {record["id"] for record in data[kind]} for kind in fields.values()}
    for place, annotation in enumerate(data["annotations"]):
        for name, kind in fields.items():
            if annotation[name] not in known[kind]:
                raise UserError(
                    f"{path}: annotations[{place}]: `{name}` is {annotation[name]}, but the file "
                    f"has no record of this id in `{kind}`; fix the annotation"
                )


def _refuse_large(image: Record, path: Path) -> None:
    if image["height"] * image["width"] > MOST_PIXELS:
        raise UserError(
            f"{path}: image {image['id']}: {image['width']}x{image['height']} pixels are more than the "
            f"{MOST_PIXELS} that can be decoded; fix the file"
        )
