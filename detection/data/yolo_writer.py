"""Writes detection data sets in YOLO's layout; `detection/data/layouts/yolo.py` reads it."""

from __future__ import annotations

from decimal import Decimal
from itertools import cycle
from pathlib import Path

import yaml

from backbones.common.datasets import Record
from detection.data.layouts.yolo import BEYOND
from detection.data.truth import Truth
from detection.data.writers import (
    Lost,
    by_image,
    class_names,
    count_lost_fields,
    digits,
    link_image,
    refuse_box,
    refuse_other_size,
    stems_of,
)
from detection.data.written_masks import WrittenMasks

DIGITS = 15  # after the point in YOLO's files


def write_yolo(folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
    """Write a split in YOLO's layout: `images/SPLIT/`, `labels/SPLIT/NAME.txt` and `data.yaml`.

    Crowds are left out, because the layout cannot mark them. With masks, a line has one polygon in place of a box.
    """
    names, lost = class_names(truth), Lost()
    written = WrittenMasks(True, lost)
    numbers = {key: number for number, key in enumerate(names)}
    stems = stems_of(truth)
    for image, indices in by_image(truth):
        refuse_other_size(truth, image)
        lines = []
        for index in indices:
            polygon = _yolo_polygon(truth.data["annotations"][index], image, written) if masks else None
            fractions = polygon or _yolo_box(truth, index, image, lost, drop, masks)
            if fractions is not None:
                number = numbers[truth.data["annotations"][index]["category_id"]]
                count_lost_fields(truth.data["annotations"][index], lost)
                lines.append(" ".join([str(number), *map(_fraction_text, fractions)]))
        path = folder / "labels" / split / f"{stems[image['id']]}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        link_image(truth, image, folder / "images" / split)
    _add_to_yaml(folder / "data.yaml", split, list(names.values()))
    written.note(truth)
    return +lost


def _yolo_polygon(record: Record, image: Record, written: WrittenMasks) -> tuple[float, ...] | None:
    """Return an annotation's mask as one polygon, as fractions of the image's sides; None if a box is to be written."""
    if record.get("iscrowd"):
        return None
    width, height = image["width"], image["height"]
    polygon = written.polygon(record)
    inside = all(0 <= value <= side for value, side in zip(polygon, cycle((width, height)), strict=False))
    polygon = polygon if polygon and inside else written.traced(record, image)
    return tuple(value / side for value, side in zip(polygon, cycle((width, height)), strict=False)) or None


def _yolo_box(truth: Truth, index: int, image: Record, lost: Lost, drop: bool, masks: bool) -> tuple[float, ...] | None:
    """Return an annotation's box, centre and size, as fractions of the image's sides, or None to leave it out."""
    record = truth.data["annotations"][index]
    if record.get("iscrowd"):
        lost["crowds or difficult objects"] += 1
        return None
    lost["outlines"] += not masks and bool(record.get("segmentation"))
    fractions = _fractions(record["bbox"], image)
    if not _is_readable(fractions):
        fractions = _fractions(_inside(record["bbox"], image), image)
        if min(fractions[2:]) <= 0:
            refuse_box(truth, index, "has no area inside the image", lost, drop)
            return None
        lost["parts of boxes outside their image"] += 1
    return fractions


def _fractions(box: list[float], image: Record) -> tuple[float, ...]:
    """Convert a box `[x, y, width, height]` in pixels to centre and size as fractions of the image's sides."""
    x, y, w, h = box
    width, height = image["width"], image["height"]
    return (x + w / 2) / width, (y + h / 2) / height, w / width, h / height


def _is_readable(fractions: tuple[float, ...]) -> bool:
    """Return whether a box, as fractions of the image's sides, is valid in YOLO's layout."""
    return min(fractions[2:]) >= 0 and all(-BEYOND <= fraction <= 1 + BEYOND for fraction in fractions)


def _inside(box: list[float], image: Record) -> list[float]:
    """Return the part of a box that is inside its image."""
    (left, right), (top, bottom) = (
        [min(max(value, 0), side) for value in (box[axis], box[axis] + box[axis + 2])]
        for axis, side in enumerate((image["width"], image["height"]))
    )
    return [left, top, right - left, bottom - top]


def _fraction_text(fraction: float) -> str:
    """Return a fraction as text of at most `DIGITS` digits after the point."""
    return digits(Decimal(f"{fraction:.{DIGITS}f}"))


def _add_to_yaml(path: Path, split: str, names: list[str]) -> None:
    """Add a split to data.yaml, with the names of the classes."""
    content: dict[str, object] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content = {**content, split: f"images/{split}", "names": dict(enumerate(names))}
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
