"""Writes detection data sets in the layouts of COCO, Pascal VOC and YOLO; `tool_writers.py` has further layouts.

hotcoco has writers too, but they lose data that the layouts can hold; see `voc.py` and `yolo.py` in
`detection/data/layouts/`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import yaml

from backbones.common.datasets import IMAGE_SUFFIXES, Record, listed_lines
from backbones.common.files import link_file, write_json
from backbones.common.images import image_size
from backbones.common.listing import describe_passed_over
from backbones.errors import UserError, counted
from detection.data.layouts.voc import CORNERS, FURTHEST, KEPT, LISTS
from detection.data.layouts.yolo import BEYOND
from detection.data.truth import Truth, checked_names

DIGITS = 15  # after the point in YOLO's files
UNTOLD = ("", "0", "unspecified")  # values of VOC's fields that tools write if nobody said anything
Lost = Counter[str]  # number of things that the new layout cannot hold, by their name


class Writer(Protocol):
    """Interface of a function that writes a split into the folder of a new data set.

    Args:
        split: name of the split.
        drop: leave out a box that the layout cannot hold, instead of raising an error.

    Raises:
        UserError: the layout cannot hold a name, a size or a box.
    """

    def __call__(self, folder: Path, split: str, truth: Truth, *, drop: bool) -> Lost:
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


def write_coco(folder: Path, split: str, truth: Truth, *, drop: bool) -> Lost:
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


def write_voc(folder: Path, split: str, truth: Truth, *, drop: bool) -> Lost:
    """Write a split in VOC's layout: `Annotations/`, `JPEGImages/`, `ImageSets/Main/SPLIT.txt` and `classes.txt`.

    A crowd becomes a difficult object.
    """
    names, lost = class_names(truth), Lost()
    _refuse_comments(truth, names.values())
    stems = stems_of(truth)
    for image, indices in by_image(truth):
        path = folder / "Annotations" / f"{stems[image['id']]}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        root = annotation_element(image)
        for index in indices:
            record = truth.data["annotations"][index]
            lost["outlines"] += bool(record.get("segmentation"))
            if any(abs(value) * 2 >= FURTHEST for value in record["bbox"]):
                refuse_box(truth, index, "reaches too far", lost, drop)
                continue
            root.append(object_element(record, names[record["category_id"]]))
        ElementTree.indent(root, "\t")
        path.write_bytes(ElementTree.tostring(root, encoding="utf-8"))
        link_image(truth, image, folder / "JPEGImages")
    (folder / LISTS).mkdir(parents=True, exist_ok=True)
    (folder / LISTS / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems.values()), encoding="utf-8")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names.values()), encoding="utf-8")
    return +lost


def write_yolo(folder: Path, split: str, truth: Truth, *, drop: bool) -> Lost:
    """Write a split in YOLO's layout: `images/SPLIT/`, `labels/SPLIT/NAME.txt` and `data.yaml`.

    Crowds are left out, because the layout cannot mark them.
    """
    names, lost = class_names(truth), Lost()
    numbers = {key: number for number, key in enumerate(names)}
    stems = stems_of(truth)
    for image, indices in by_image(truth):
        refuse_other_size(truth, image)
        lines = []
        for index in indices:
            fractions = _yolo_box(truth, index, image, lost, drop)
            if fractions is not None:
                number = numbers[truth.data["annotations"][index]["category_id"]]
                count_lost_fields(truth.data["annotations"][index], lost)
                lines.append(" ".join([str(number), *map(_fraction_text, fractions)]))
        path = folder / "labels" / split / f"{stems[image['id']]}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        link_image(truth, image, folder / "images" / split)
    _add_to_yaml(folder / "data.yaml", split, list(names.values()))
    return +lost


WRITERS: dict[str, Writer] = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


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


def _refuse_comments(truth: Truth, names: Iterable[str]) -> None:
    """Refuse class names that contain what begins a comment in `classes.txt`."""
    for name in names:
        if [content for _, content in listed_lines(name)] != [name]:
            raise UserError(
                f"{truth.path}: class {name!r} contains a #, which begins a comment in classes.txt; rename it"
            )


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


def annotation_element(image: Record) -> ElementTree.Element:
    """Return VOC's <annotation> of an image, without objects."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = image["file_name"]
    size = ElementTree.SubElement(root, "size")
    for name in ("width", "height"):
        ElementTree.SubElement(size, name).text = str(int(image[name]))
    ElementTree.SubElement(size, "depth").text = "3"
    return root


def object_element(record: Record, name: str) -> ElementTree.Element:
    """Return VOC's <object> of an annotation.

    VOC counts pixels from 1 and includes the last one. Decimals keep 0.1 exact.
    """
    thing = ElementTree.Element("object")
    ElementTree.SubElement(thing, "name").text = name
    for tag in KEPT:
        if isinstance(record.get(tag), str):
            ElementTree.SubElement(thing, tag).text = record[tag]
    ElementTree.SubElement(thing, "difficult").text = str(int(record.get("iscrowd") or 0))
    x, y, w, h = (Decimal(str(value)) for value in record["bbox"])
    box = ElementTree.SubElement(thing, "bndbox")
    for corner, value in zip(CORNERS, (x + 1, y + 1, x + w, y + h), strict=True):
        ElementTree.SubElement(box, corner).text = digits(value)
    return thing


def _yolo_box(truth: Truth, index: int, image: Record, lost: Lost, drop: bool) -> tuple[float, ...] | None:
    """Return an annotation's box, centre and size, as fractions of the image's sides, or None to leave it out."""
    record = truth.data["annotations"][index]
    if record.get("iscrowd"):
        lost["crowds or difficult objects"] += 1
        return None
    lost["outlines"] += bool(record.get("segmentation"))
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


def _add_to_yaml(path: Path, split: str, names: list[str]) -> None:
    """Add a split to data.yaml, with the names of the classes."""
    content: dict[str, object] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content = {**content, split: f"images/{split}", "names": dict(enumerate(names))}
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
