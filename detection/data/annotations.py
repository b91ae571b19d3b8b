"""Checks COCO annotations and packs them into arrays, which data workers can share, unlike Python objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from backbones.common.datasets import (
    ODD_IDS,
    Record,
    count_odd_ids,
    records_of,
    refuse_duplicates,
)
from backbones.common.datasets import field as require_field
from backbones.errors import UserError, first_names
from detection.data.checked_images import checked_images
from detection.data.masks import PackedMasks, WithoutMask, read_masks
from detection.data.truth import Protocol, Truth

# Pixels. A box whose side inside the image is not longer has no area, wherever boxes are read, checked or augmented.
SMALLEST_SIDE = 1e-3
FRACTIONS = (
    "most boxes lie between 0 and 1, as fractions of the sides of their images do, but boxes are read in pixels; "
    "multiply x and width by the width of the image, y and height by its height"
)


@dataclass(frozen=True)
class CategoryMap:
    """Maps the categories of a file, in the order of their ids, to the model's labels 1..K. Label 0 is background.

    Attributes:
        ids: category ids as in the file, ascending, gaps allowed.
        names: names of the categories.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def from_json(cls, categories: Iterable[Record], path: Path) -> CategoryMap:
        """Return the map for the `categories` of a file.

        Raises:
            UserError: there is no category, an id or name is missing, or an id is a duplicate.
        """
        pairs = sorted(
            (require_field(record, "category", "id", path), str(require_field(record, "category", "name", path)))
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
        """Return labels 1..K `[N]` for category ids `[N]`, all of which must be in the map."""
        return np.searchsorted(np.asarray(self.ids), category_ids) + 1

    def require_same(self, other: CategoryMap, *, here: str, there: str) -> None:
        """Check that another map has the same ids and names. Capitals do not matter, unless two names differ in them.

        Args:
            here: name of this map in the message.
            there: name of the other map in the message.

        Raises:
            UserError: the maps differ.
        """
        mine, theirs = dict(zip(self.ids, self.names, strict=True)), dict(zip(other.ids, other.names, strict=True))
        plain = [{key: name.casefold() for key, name in names.items()} for names in (mine, theirs)]
        if mine == theirs or (plain[0] == plain[1] and len(set(plain[0].values())) == len(mine)):
            return
        odd = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
        shown = ", ".join(f"{key}: {mine.get(key, 'absent')} / {theirs.get(key, 'absent')}" for key in odd[:5])
        raise UserError(
            f"categories of {here} and {there} differ in {len(odd)} ids ({shown}); use files of the same data set"
        )


@dataclass(frozen=True)
class CocoAnnotations:
    """The annotations of one split of I images and B boxes, packed.

    Attributes:
        path: file or folder to name in messages.
        folder: folder of the images.
        source: what an evaluator reads: a JSON file, or the content of one.
        protocol: benchmark whose metrics to compute in addition to COCO's.
        image_ids: `[I]`, ascending.
        file_names: `[I]`, relative to `folder`.
        sizes: `[I, 2]` height and width as in the file.
        offsets: `[I + 1]`; the boxes of image i are `offsets[i]:offsets[i + 1]`.
        boxes: `[B, 4]` float32 xyxy in pixels, inside the image.
        labels: `[B]` from 1.
        crowd: `[B]`, whether a box is a crowd.
        clipped: number of boxes that reached out of their image.
        notes: descriptions of what was corrected or left out in reading, with the number of cases.
        passed_over: number of files in the image folder by suffix that are not images.
        masks: masks of the boxes; None if they were not read.
        dropped: number of boxes without area that were left out. Metrics of `source` count them, as COCO's do.
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
    masks: PackedMasks | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        path: Path,
        folder: Path,
        *,
        bad_boxes: Literal["error", "drop"] = "error",
        absent_images: Literal["error", "keep"] = "error",
        allow_outside: bool = False,
        without_mask: WithoutMask | None = None,
    ) -> CocoAnnotations:
        """Read and check a COCO instances file. See `of` for arguments and errors."""
        truth = Truth.of_coco(path, folder)
        return cls.of(
            truth,
            bad_boxes=bad_boxes,
            absent_images=absent_images,
            allow_outside=allow_outside,
            without_mask=without_mask,
        )

    @classmethod
    def of(
        cls,
        truth: Truth,
        *,
        bad_boxes: Literal["error", "drop"] = "error",
        absent_images: Literal["error", "keep"] = "error",
        allow_outside: bool = False,
        without_mask: WithoutMask | None = None,
    ) -> CocoAnnotations:
        """Check and pack the records of a split.

        Boxes are clipped to their image. A missing `iscrowd` counts as 0.

        Args:
            bad_boxes: whether a box without area inside its image is an error, or left out.
            absent_images: whether an image that is not in `folder` is an error.
            allow_outside: accept file names that lead out of `folder` (absolute ones, and those with `..`).
            without_mask: read the masks of the objects too, and treat objects without one as in `read_masks`. None
                reads no masks.

        Raises:
            UserError: something is malformed; the message names the file and the record. Examples are a missing list or
                field, a duplicate id, an annotation of an absent image or category, an image that is not in `folder`.
        """
        path, folder = truth.path, truth.folder
        image_ids, names, sizes = checked_images(truth, absent_images, allow_outside)
        categories = CategoryMap.from_json(records_of(truth.data, "categories", path), path)
        annotations = records_of(truth.data, "annotations", path)
        if odd := count_odd_ids(annotations):
            truth.notes[ODD_IDS] += odd
        rows = _rows(annotations, image_ids, categories, path)
        boxes, clipped, keep = _checked_boxes(truth, rows, sizes, bad_boxes)
        crowd = np.array([bool(require_field(a, "annotation", "iscrowd", path)) for a in annotations], dtype=bool)
        masks = None
        if without_mask is not None:
            masks = read_masks(truth, sizes[rows], boxes, crowd, keep, without_mask)
        dropped = int((~keep).sum())
        keep &= True if masks is None else masks.kept
        # Sort the annotations that are kept by image.
        order = np.flatnonzero(keep)[np.argsort(rows[keep], kind="stable")]
        return cls(
            path=path,
            folder=folder,
            source=(truth if masks is None else masks.evaluated(truth, sizes[rows])).evaluator_source(),
            protocol=truth.protocol(),
            categories=categories,
            image_ids=image_ids,
            file_names=names,
            sizes=sizes,
            offsets=np.searchsorted(rows[order], np.arange(len(image_ids) + 1)),
            boxes=boxes[order],
            labels=categories.labels(np.array([annotations[i]["category_id"] for i in order], dtype=np.int64)),
            crowd=crowd[order],
            clipped=clipped,
            dropped=dropped,
            masks=None if masks is None else PackedMasks.of([masks.codes[index] for index in order]),
            notes=truth.all_notes(),
            passed_over=truth.passed_over,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def with_images(self, rows: np.ndarray) -> CocoAnnotations:
        """Return the annotations of the images at `rows` `[M]`, ascending, as if the data had no other images."""
        counts = np.diff(self.offsets)
        chosen = np.isin(np.repeat(np.arange(len(self)), counts), rows)
        return replace(
            self,
            image_ids=self.image_ids[rows],
            file_names=self.file_names[rows],
            sizes=self.sizes[rows],
            offsets=np.concatenate([[0], np.cumsum(counts[rows])]).astype(self.offsets.dtype),
            boxes=self.boxes[chosen],
            labels=self.labels[chosen],
            crowd=self.crowd[chosen],
            masks=None if self.masks is None else self.masks.chosen(np.flatnonzero(chosen)),
        )

    def without_unused(self, kept: Sequence[int]) -> CocoAnnotations:
        """Return these annotations without the categories whose ids are not in `kept`, and which no box has."""
        keep = np.isin(self.categories.ids, kept)
        if keep.all():
            return self
        pairs = list(zip(self.categories.ids, self.categories.names, strict=True))
        ids, names = zip(*(pair for pair, is_kept in zip(pairs, keep, strict=True) if is_kept), strict=True)
        unused = [name for name, is_kept in zip(self.categories.names, keep, strict=True) if not is_kept]
        notes = {**self.notes, f"unused classes dropped ({first_names(unused)})": len(unused)}
        labels = (np.cumsum(keep)[self.labels - 1]).astype(self.labels.dtype)
        return replace(self, categories=CategoryMap(ids, names), labels=labels, notes=notes)

    def of_image(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return boxes `[N, 4]`, labels `[N]` and crowd flags `[N]` of one image."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes[part], self.labels[part], self.crowd[part]

    def strips_of(self, index: int) -> np.ndarray | None:
        """Return the masks of one image's boxes as strips `[S, 5]`, or None if masks were not read."""
        if self.masks is None:
            return None
        return self.masks.strips(self.offsets[index], self.offsets[index + 1], int(self.sizes[index, 0]))

    def objects(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the objects, without crowds, of the images at `indices` `[M]`.

        Returns:
            For each object the position of its image in `indices`, and its class 0..K-1.
        """
        position = np.full(len(self), -1)
        position[indices] = np.arange(len(indices))
        images = np.repeat(position, np.diff(self.offsets))
        kept = (images >= 0) & ~self.crowd
        return images[kept], self.labels[kept].astype(np.int64) - 1

    def boxes_of(self, indices: np.ndarray) -> np.ndarray:
        """Return the indices in `boxes` of the objects that `objects` returns for the same images, in their order."""
        chosen = np.isin(np.repeat(np.arange(len(self)), np.diff(self.offsets)), indices)
        return np.flatnonzero(chosen & ~self.crowd)

    def with_objects(self, kept: np.ndarray) -> CocoAnnotations:
        """Return these annotations with the boxes at `kept` as the only objects; all others are crowds to ignore."""
        crowd = np.ones_like(self.crowd)
        crowd[kept] = False
        return replace(self, crowd=crowd)

    def empty(self) -> np.ndarray:
        """Return for each image whether it has no objects `[I]`. Crowds are not objects."""
        objects = np.concatenate([[0], np.cumsum(~self.crowd)])
        return objects[self.offsets[1:]] == objects[self.offsets[:-1]]


def are_fractions(boxes: np.ndarray) -> bool:
    """Return whether most boxes xyxy `[B, 4]` lie inside -1..1, and one of these is not at whole pixels.

    Fractions lie in 0..1, but VOC counts pixels from 1, so that 1 was subtracted from its fractions. Some fractions are
    a little below 0 by rounding.
    """
    inside = boxes[((boxes >= -1) & (boxes <= 1)).all(axis=1)]
    return 2 * len(inside) > len(boxes) and bool((inside % 1).any())


def _rows(annotations: list[Record], image_ids: np.ndarray, categories: CategoryMap, path: Path) -> np.ndarray:
    """Return the index `[B]` of each annotation's image in `image_ids`.

    Raises:
        UserError: an annotation names an absent image or category.
    """
    position = {identifier: row for row, identifier in enumerate(image_ids.tolist())}
    known = set(categories.ids)
    rows = np.empty(len(annotations), dtype=np.int64)
    for index, annotation in enumerate(annotations):
        image = require_field(annotation, "annotation", "image_id", path)
        category = require_field(annotation, "annotation", "category_id", path)
        if image not in position:
            raise UserError(
                f"{path}: annotation {annotation.get('id', index)} names image {image}, which is not in `images`; "
                "fix the file"
            )
        if category not in known:
            raise UserError(
                f"{path}: annotation {annotation.get('id', index)} has category {category}, which is not in "
                "`categories`; fix the file"
            )
        rows[index] = position[image]
    return rows


def _checked_boxes(
    truth: Truth, rows: np.ndarray, sizes: np.ndarray, bad_boxes: str
) -> tuple[np.ndarray, int, np.ndarray]:
    """Return boxes xyxy `[B, 4]` clipped to their images, how many were clipped, and which have an area `[B]`."""
    annotations = truth.data["annotations"]
    boxes = np.array(
        [require_field(a, "annotation", "bbox", truth.path) for a in annotations], dtype=np.float64
    ).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    if are_fractions(boxes):
        raise UserError(f"{truth.path}: {FRACTIONS}")
    limits = np.concatenate([sizes[rows][:, ::-1]] * 2, axis=1).reshape(-1, 4)
    inside = boxes.clip(0, limits).astype(np.float32)
    keep = (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf) > SMALLEST_SIDE
    if bad_boxes == "error" and not keep.all():
        first = int(np.flatnonzero(~keep)[0])
        raise UserError(
            f"{': '.join(truth.locate(first))} has a box without area inside the image: {annotations[first]['bbox']} "
            f"({int((~keep).sum())} such boxes); fix the file or pass --bad-boxes drop"
        )
    # Rounding in the file makes boxes end slightly outside. Only a pixel or more counts as clipped.
    clipped = int((np.abs(inside - boxes) > 1).any(axis=1).sum())
    return inside, clipped, keep
