"""COCO annotations, checked and packed: arrays of numbers that workers share, not millions of Python objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from backbones.common.datasets import (
    Record,
    field,
    file_of_image,
    read_coco,
    records_of,
    refuse_absent_files,
    refuse_duplicates,
)
from backbones.errors import UserError
from detection.data.truth import Protocol, Truth

SMALLEST_SIDE = 1e-3  # pixels; narrower boxes have no area to learn from


@dataclass(frozen=True)
class CategoryMap:
    """Labels 1..K of the model for the categories of a file, in the order of their ids; 0 is the background.

    Attributes:
        ids: category ids as in the file, rising, gaps allowed.
        names: their names.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def from_json(cls, categories: Iterable[Record], path: Path) -> CategoryMap:
        """From a file's `categories`.

        Raises:
            UserError: for none at all, a missing id or name, or an id that stands twice.
        """
        pairs = sorted(
            (field(record, "category", "id", path), str(field(record, "category", "name", path)))
            for record in categories
        )
        if not pairs:
            raise UserError(f"{path}: `categories` is empty; a detector needs at least one class")
        ids = tuple(identifier for identifier, _ in pairs)
        refuse_duplicates(ids, "category id", path)
        return cls(ids, tuple(name for _, name in pairs))

    def __len__(self) -> int:
        return len(self.ids)

    def labels(self, category_ids: np.ndarray) -> np.ndarray:
        """Labels 1..K `[N]` for category ids `[N]`, all of which must be in the map."""
        return np.searchsorted(np.asarray(self.ids), category_ids) + 1

    def require_same(self, other: CategoryMap, *, here: str, there: str) -> None:
        """Refuse another map, showing where they differ.

        Raises:
            UserError: unless ids and names are the same.
        """
        mine, theirs = dict(zip(self.ids, self.names, strict=True)), dict(zip(other.ids, other.names, strict=True))
        if mine == theirs:
            return
        odd = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
        shown = ", ".join(f"{key}: {mine.get(key, 'absent')} / {theirs.get(key, 'absent')}" for key in odd[:5])
        raise UserError(
            f"categories of {here} and {there} differ in {len(odd)} ids ({shown}); use files of one data set"
        )


@dataclass(frozen=True)
class CocoAnnotations:
    """The truth of one split, packed.

    Attributes:
        path: the file, or folder, to name in messages; `folder`: where its images lie.
        source: the JSON file itself, or the content of one; protocol: whose figures are wanted beside COCO's.
        image_ids: `[I]`, file_names `[I]`, sizes `[I, 2]` height and width as the file says.
        offsets: `[I + 1]`; the boxes of image i are `offsets[i]:offsets[i + 1]`.
        boxes: `[B, 4]` float32 xyxy in pixels, inside the image; labels `[B]` from 1; crowd `[B]`.
        clipped, dropped: how many boxes stuck out of their image, and how many without area were left out.
    """

    path: Path
    folder: Path
    source: Path | bytes
    protocol: Protocol
    categories: CategoryMap
    image_ids: np.ndarray
    file_names: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    clipped: int = 0
    dropped: int = 0

    @classmethod
    def read(
        cls,
        path: Path,
        folder: Path,
        *,
        bad_boxes: Literal["error", "drop"] = "error",
        absent_images: Literal["error", "keep"] = "error",
        allow_outside: bool = False,
    ) -> CocoAnnotations:
        """Read and check a COCO instances file; see `of` for the arguments and errors."""
        truth = Truth("coco", path, folder, read_coco(path))
        return cls.of(truth, bad_boxes=bad_boxes, absent_images=absent_images, allow_outside=allow_outside)

    @classmethod
    def of(
        cls,
        truth: Truth,
        *,
        bad_boxes: Literal["error", "drop"] = "error",
        absent_images: Literal["error", "keep"] = "error",
        allow_outside: bool = False,
    ) -> CocoAnnotations:
        """Check and pack the records of a split.

        Boxes are clipped to their image. A missing `iscrowd` means 0.

        Args:
            bad_boxes: what to do with boxes that have no area inside their image.
            absent_images: whether every image must lie in `folder`.
            allow_outside: take file names that lead out of `folder` (absolute ones, and those with `..`).

        Raises:
            UserError: naming the file and the record, for anything malformed: no JSON, a missing list or field, ids
                that stand twice, an annotation of an absent image or category, an image that is not in `folder`.
        """
        path, folder, data = truth.path, truth.folder, truth.data
        images = sorted(records_of(data, "images", path), key=lambda image: field(image, "image", "id", path))
        categories = CategoryMap.from_json(records_of(data, "categories", path), path)
        annotations = records_of(data, "annotations", path)
        image_ids = np.array([image["id"] for image in images], dtype=np.int64)
        if not len(images):
            raise UserError(f"{path}: `images` is empty")
        refuse_duplicates(image_ids.tolist(), "image id", path)
        refuse_duplicates([field(a, "annotation", "id", path) for a in annotations], "annotation id", path)
        names = np.array([file_of_image(image, path, allow_outside=allow_outside) for image in images])
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of images for {path}")
        if absent_images == "error":
            refuse_absent_files(names.tolist(), folder, path)
        sizes = np.array(
            [[field(image, "image", side, path) for side in ("height", "width")] for image in images], np.int32
        )
        rows = _rows(annotations, image_ids, categories, path)
        boxes, clipped, keep = _checked_boxes(truth, rows, sizes, bad_boxes)
        crowd = np.array([bool(field(a, "annotation", "iscrowd", path)) for a in annotations], dtype=bool)
        order = np.flatnonzero(keep)[np.argsort(rows[keep], kind="stable")]
        return cls(
            path=path,
            folder=folder,
            source=truth.packed(),
            protocol=truth.protocol(),
            categories=categories,
            image_ids=image_ids,
            file_names=names,
            sizes=sizes,
            offsets=np.searchsorted(rows[order], np.arange(len(images) + 1)),
            boxes=boxes[order],
            labels=categories.labels(np.array([annotations[i]["category_id"] for i in order], dtype=np.int64)),
            crowd=crowd[order],
            clipped=clipped,
            dropped=int((~keep).sum()),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def of_image(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes `[N, 4]`, labels `[N]` and crowd flags `[N]` of one image."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes[part], self.labels[part], self.crowd[part]

    def objects(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each object of the images at `places`: where among them its image is, and its class 0..K-1; no crowds."""
        position = np.full(len(self), -1)
        position[places] = np.arange(len(places))
        images = np.repeat(position, np.diff(self.offsets))
        kept = (images >= 0) & ~self.crowd
        return images[kept], self.labels[kept].astype(np.int64) - 1

    def empty(self) -> np.ndarray:
        """Which images `[I]` have no object (a crowd alone is none)."""
        objects = np.concatenate([[0], np.cumsum(~self.crowd)])
        return objects[self.offsets[1:]] == objects[self.offsets[:-1]]


def _rows(annotations: list[Record], image_ids: np.ndarray, categories: CategoryMap, path: Path) -> np.ndarray:
    """Position `[B]` of each annotation's image among `image_ids`."""
    position = {identifier: row for row, identifier in enumerate(image_ids.tolist())}
    known = set(categories.ids)
    rows = np.empty(len(annotations), dtype=np.int64)
    for index, annotation in enumerate(annotations):
        image = field(annotation, "annotation", "image_id", path)
        category = field(annotation, "annotation", "category_id", path)
        if image not in position:
            raise UserError(f"{path}: annotation {annotation['id']} names image {image}, which is not in `images`")
        if category not in known:
            raise UserError(f"{path}: annotation {annotation['id']} has category {category}, not in `categories`")
        rows[index] = position[image]
    return rows


def _checked_boxes(
    truth: Truth, rows: np.ndarray, sizes: np.ndarray, bad_boxes: str
) -> tuple[np.ndarray, int, np.ndarray]:
    """Boxes xyxy `[B, 4]` clipped to their images, how many were clipped, and which `[B]` have area."""
    annotations = truth.data["annotations"]
    boxes = np.array([field(a, "annotation", "bbox", truth.path) for a in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    limits = np.concatenate([sizes[rows][:, ::-1]] * 2, axis=1).reshape(-1, 4)
    inside = boxes.clip(0, limits).astype(np.float32)
    keep = (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf) > SMALLEST_SIDE
    if bad_boxes == "error" and not keep.all():
        first = int(np.flatnonzero(~keep)[0])
        raise UserError(
            f"{': '.join(truth.place(first))} has a box without area inside the image: {annotations[first]['bbox']} "
            f"({int((~keep).sum())} such boxes); mend the file or pass --bad-boxes drop"
        )
    # Rounding in the file makes boxes end a hair outside; only what a person would see counts as clipped.
    clipped = int((np.abs(inside - boxes) > 1).any(axis=1).sum())
    return inside, clipped, keep
