"""Writes detection data sets in COCO's layout, and holds what the writers of all layouts share.

hotcoco has writers too, but they lose data that the layouts can hold; see `voc.py` and `yolo.py` in
`detection/data/layouts/`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Protocol

from backbones.common.datasets import Record
from backbones.common.files import link_file, write_json
from backbones.common.images import image_size
from backbones.common.listing import describe_passed_over
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError, counted
from detection.data.layouts.voc_objects import KEPT
from detection.data.truth import Truth, checked_names

UNTOLD = ("", "0", "unspecified")  # values of VOC's fields that tools write if nobody said anything
Lost = Counter[str]  # number of things that the new layout cannot hold, by their name


class Writer(Protocol):
    """Interface of a function that writes a split into the folder of a new data set.

    Args:
        split: name of the split.
        drop: leave out a box that the layout cannot hold, instead of raising an error.
        masks: write the masks of objects wherever the layout can hold them, even if that changes boxes.

    Raises:
        UserError: the layout cannot hold a name, a size or a box.
    """

    def __call__(self, folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
        """Write the split; return the number of boxes that were left out, by reason."""


def count_lost_fields(record: Record, lost: Lost, *, keeps: Collection[str] = ()) -> None:
    """Count the fields of VOC's objects that an annotation has and the new layout cannot hold.

    Args:
        keeps: fields that the new layout holds.
    """
    for tag in KEPT:
        if tag not in keeps and str(record.get(tag, "0")).strip().lower() not in UNTOLD:
            lost[f"values of `{tag}`"] += 1


def describe(split: str, truth: Truth, lost: Lost) -> str:
    """Return a line about a split that was written: its contents and what was left out."""
    text = f"{split}: {counted(len(truth.data['images']), 'image')}, {counted(len(truth.data['annotations']), 'box')}"
    text += "".join(f"; {what}: {count}" for what, count in truth.all_notes().items())
    others = describe_passed_over(truth.passed_over)
    text += f"; files passed over: {others}" if others else ""
    missing = ", ".join(f"{count} {what}" for what, count in sorted(lost.items()))
    return f"{text}; left out: {missing}" if missing else text


def write_coco(folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
    """Write a split in COCO's layout: `annotations/instances_SPLIT.json` and the folder `SPLIT/`."""
    for image in truth.data["images"]:
        link_image(truth, image, folder / split)
    count_difficult(truth)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    write_json(folder / "annotations" / f"instances_{split}.json", truth.data, indent=None)
    return Counter()


def count_difficult(truth: Truth) -> None:
    """Note how many of VOC's difficult objects are written as crowds, because COCO's files have no such mark."""
    crowds = sum(bool(record.get("iscrowd")) for record in truth.data["annotations"])
    if crowds and truth.layout in ("voc", "voc-xml"):
        truth.notes["difficult objects written as crowds"] += crowds


def by_image(truth: Truth) -> list[tuple[Record, list[int]]]:
    """Return each image with the indices of its annotations."""
    indices: dict[int, list[int]] = {image["id"]: [] for image in truth.data["images"]}
    for index, record in enumerate(truth.data["annotations"]):
        indices[record["image_id"]].append(index)
    return [(image, indices[image["id"]]) for image in truth.data["images"]]


def class_names(truth: Truth) -> dict[int, str]:
    """Return class names by category id, in the order of ids.

    Raises:
        UserError: a name does not fit on a line of a text file, or is a duplicate.
    """
    records = sorted(truth.data["categories"], key=lambda record: record["id"])
    names = {record["id"]: str(record["name"]) for record in records}
    for name in names.values():
        if not _is_line(name):
            raise UserError(
                f"{truth.path}: class {name!r} has spaces around it or characters that cannot be printed; rename it"
            )
    checked_names(truth.path, list(names.values()))
    return names


def stems_of(truth: Truth) -> dict[int, str]:
    """Return the names of annotation files, without suffix, by image id.

    Raises:
        UserError: an image's name does not fit on a line of a text file, or two images have the same annotation file.
    """
    stems: dict[int, str] = {}
    owners: dict[str, str] = {}
    for image in truth.data["images"]:
        name = image["file_name"]
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in IMAGE_SUFFIXES or not _is_line(stem):
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise UserError(
                f"{truth.path}: image {name!r}: this name cannot be listed in a text file; use printable characters "
                f"and a suffix of {suffixes}"
            )
        if stem in owners:
            raise UserError(
                f"{truth.path}: images {owners[stem]} and {name} would have the same annotation file; "
                "rename one of them"
            )
        owners[stem] = name
        stems[image["id"]] = stem
    return stems


def _is_line(text: str) -> bool:
    """Return whether a text can be stored as one line of a text file."""
    return bool(text) and text.isprintable() and text == text.strip()


def link_image(truth: Truth, image: Record, folder: Path) -> None:
    """Put a hard link to an image into a folder, or a copy if links are not possible."""
    target = folder / image["file_name"]
    if target.exists():
        raise UserError(f"{truth.path}: two images have the name {image['file_name']}; rename one of them")
    link_file(truth.folder / image["file_name"], target)


def refuse_box(truth: Truth, index: int, what: str, lost: Lost, drop: bool) -> None:
    """Count a box that the new layout cannot hold, or raise a UserError unless `drop`."""
    if not drop:
        box = truth.data["annotations"][index]["bbox"]
        raise UserError(
            f"{': '.join(truth.locate(index))}: its box {box} {what}, which the new layout cannot hold; "
            "fix the box or pass --bad-boxes drop"
        )
    lost["bad boxes"] += 1


def digits(value: Decimal) -> str:
    """Format a number as text without exponent and without trailing zeros."""
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def refuse_other_size(truth: Truth, image: Record) -> None:
    """Raise a UserError if an image file has another size than the annotations say.

    Layouts with fractions of the sides store no sizes. Their readers use the size of the image file after EXIF
    rotation.
    """
    path = truth.folder / image["file_name"]
    height, width = image_size(path, apply_exif=True)
    if (width, height) != (image["width"], image["height"]):
        raise UserError(
            f"{path}: is {width}x{height} pixels after EXIF rotation, but {truth.path} says "
            f"{image['width']}x{image['height']}, which the new layout cannot hold; fix one of them"
        )
