"""Writers of detection sets: the layouts of COCO, Pascal VOC and YOLO.

They are ours because hotcoco's lose what the layouts can hold: see `detection/voc_file.py` and `yolo_file.py`.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from backbones.common.datasets import IMAGE_SUFFIXES, Record
from backbones.common.files import write_json
from backbones.common.images import image_size
from backbones.errors import UserError
from detection.data.truth import Truth, checked_names
from detection.data.voc import CORNERS, FURTHEST, KEPT, LISTS
from detection.data.yolo import BEYOND

SHARES = 15  # digits after the point in YOLO's files: a picometre of a kilometre
Lost = Counter[str]  # what the new layout has no place for, by its name


def describe(split: str, truth: Truth, lost: Lost) -> str:
    """What a split has, in a line."""
    text = f"{split}: {len(truth.data['images'])} images, {len(truth.data['annotations'])} boxes"
    missing = ", ".join(f"{count} {what}" for what, count in sorted(lost.items()))
    return f"{text}; left out: {missing}" if missing else text


def write_coco(folder: Path, split: str, truth: Truth, *, drop: bool) -> Lost:
    """`annotations/instances_SPLIT.json` and `SPLIT/`."""
    for image in truth.data["images"]:
        _place(truth, image, folder / split)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    write_json(folder / "annotations" / f"instances_{split}.json", truth.data, indent=None)
    return Counter()


def write_voc(folder: Path, split: str, truth: Truth, *, drop: bool) -> Lost:
    """`Annotations/NAME.xml`, `JPEGImages/`, `ImageSets/Main/SPLIT.txt` and `classes.txt`; crowds are difficult."""
    names, lost = _class_names(truth), Lost()
    stems = _stems(truth)
    for image, things in _by_image(truth):
        path = folder / "Annotations" / f"{stems[image['id']]}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        root = _annotation(image)
        for index in things:
            record = truth.data["annotations"][index]
            lost["outlines"] += bool(record.get("segmentation"))
            if any(abs(value) * 2 >= FURTHEST for value in record["bbox"]):
                _refuse_box(truth, index, "reaches too far", lost, drop)
                continue
            root.append(_object(record, names[record["category_id"]]))
        ElementTree.indent(root, "\t")
        path.write_bytes(ElementTree.tostring(root, encoding="utf-8"))
        _place(truth, image, folder / "JPEGImages")
    (folder / LISTS).mkdir(parents=True, exist_ok=True)
    (folder / LISTS / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems.values()), encoding="utf-8")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names.values()), encoding="utf-8")
    return +lost


def write_yolo(folder: Path, split: str, truth: Truth, *, drop: bool) -> Lost:
    """`images/SPLIT/`, `labels/SPLIT/NAME.txt` and `data.yaml`; crowds, for which it has no mark, are left out."""
    names, lost = _class_names(truth), Lost()
    numbers = {key: number for number, key in enumerate(names)}
    stems = _stems(truth)
    for image, things in _by_image(truth):
        _refuse_other_size(truth, image)
        lines = []
        for index in things:
            record = truth.data["annotations"][index]
            if record.get("iscrowd"):
                lost["crowds or difficult objects"] += 1
                continue
            lost["outlines"] += bool(record.get("segmentation"))
            shares = _shares(record["bbox"], image)
            if not _holds(shares):  # which its readers would refuse
                shares = _shares(_inside(record["bbox"], image), image)
                if min(shares[2:]) <= 0:
                    _refuse_box(truth, index, "has no area inside the image", lost, drop)
                    continue
                lost["parts of boxes outside their image"] += 1
            lines.append(" ".join([str(numbers[record["category_id"]]), *map(_plain, shares)]))
        path = folder / "labels" / split / f"{stems[image['id']]}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _place(truth, image, folder / "images" / split)
    _add_to_yaml(folder / "data.yaml", split, list(names.values()))
    return +lost


WRITERS: dict[str, Callable[..., Lost]] = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


def _by_image(truth: Truth) -> list[tuple[Record, list[int]]]:
    """Each image with the places of its annotations."""
    places: dict[int, list[int]] = {image["id"]: [] for image in truth.data["images"]}
    for index, record in enumerate(truth.data["annotations"]):
        places[record["image_id"]].append(index)
    return [(image, places[image["id"]]) for image in truth.data["images"]]


def _class_names(truth: Truth) -> dict[int, str]:
    """Names by category id, in the order of ids, fit for a line of a text file."""
    records = sorted(truth.data["categories"], key=lambda record: record["id"])
    names = {record["id"]: str(record["name"]) for record in records}
    for name in names.values():
        if not _is_line(name):
            raise UserError(f"{truth.path}: class {name!r} has spaces around it or signs that do not print; rename it")
    checked_names(truth.path, list(names.values()))
    return names


def _stems(truth: Truth) -> dict[int, str]:
    """Names of annotation files, without suffix, by image id."""
    stems: dict[int, str] = {}
    owners: dict[str, str] = {}
    for image in truth.data["images"]:
        name = image["file_name"]
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in IMAGE_SUFFIXES or not _is_line(stem):
            raise UserError(
                f"{truth.path}: image {name!r}: its name does not fit a list; use {', '.join(IMAGE_SUFFIXES)}"
            )
        if stem in owners:
            raise UserError(
                f"{truth.path}: images {owners[stem]} and {name} would share an annotation file; rename one"
            )
        owners[stem] = name
        stems[image["id"]] = stem
    return stems


def _is_line(text: str) -> bool:
    return bool(text) and text.isprintable() and text == text.strip()


def _place(truth: Truth, image: Record, folder: Path) -> None:
    """Link an image, or copy it where that is not possible."""
    source, target = (truth.folder / image["file_name"]).resolve(), folder / image["file_name"]
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise UserError(f"{truth.path}: two images are called {image['file_name']}; rename one")
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _refuse_box(truth: Truth, index: int, what: str, lost: Lost, drop: bool) -> None:
    if not drop:
        box = truth.data["annotations"][index]["bbox"]
        raise UserError(
            f"{': '.join(truth.place(index))}: its box {box} {what}, which the new layout cannot hold; mend it or pass "
            "--bad-boxes drop"
        )
    lost["bad boxes"] += 1


def _annotation(image: Record) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = image["file_name"]
    size = ElementTree.SubElement(root, "size")
    for name in ("width", "height"):
        ElementTree.SubElement(size, name).text = str(int(image[name]))
    ElementTree.SubElement(size, "depth").text = "3"
    return root


def _object(record: Record, name: str) -> ElementTree.Element:
    """VOC counts pixels from 1 and includes the last one; decimals, so that 0.1 comes back as 0.1."""
    thing = ElementTree.Element("object")
    ElementTree.SubElement(thing, "name").text = name
    for tag in KEPT:
        if isinstance(record.get(tag), str):
            ElementTree.SubElement(thing, tag).text = record[tag]
    ElementTree.SubElement(thing, "difficult").text = str(int(record.get("iscrowd") or 0))
    x, y, w, h = (Decimal(str(value)) for value in record["bbox"])
    box = ElementTree.SubElement(thing, "bndbox")
    for corner, value in zip(CORNERS, (x + 1, y + 1, x + w, y + h), strict=True):
        ElementTree.SubElement(box, corner).text = _digits(value)
    return thing


def _shares(box: list[float], image: Record) -> tuple[float, ...]:
    """Centre and size as shares of the image's sides."""
    x, y, w, h = box
    width, height = image["width"], image["height"]
    return (x + w / 2) / width, (y + h / 2) / height, w / width, h / height


def _holds(shares: tuple[float, ...]) -> bool:
    return min(shares[2:]) >= 0 and all(-BEYOND <= share <= 1 + BEYOND for share in shares)


def _inside(box: list[float], image: Record) -> list[float]:
    """What of a box is inside its image."""
    (left, right), (top, bottom) = (
        [min(max(value, 0), side) for value in (box[axis], box[axis] + box[axis + 2])]
        for axis, side in enumerate((image["width"], image["height"]))
    )
    return [left, top, right - left, bottom - top]


def _plain(share: float) -> str:
    return _digits(Decimal(f"{share:.{SHARES}f}"))


def _digits(value: Decimal) -> str:
    """A number without an exponent and without zeros at its end."""
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def _refuse_other_size(truth: Truth, image: Record) -> None:
    """YOLO's files have no sizes: readers take those of the image file, as its EXIF orientation turns it."""
    path = truth.folder / image["file_name"]
    height, width = image_size(path, apply_exif=True)
    if (width, height) != (image["width"], image["height"]):
        raise UserError(
            f"{path}: is {width}x{height} pixels as its EXIF turns it, but {truth.path} says "
            f"{image['width']}x{image['height']}, which YOLO's layout cannot hold; mend one"
        )


def _add_to_yaml(path: Path, split: str, names: list[str]) -> None:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content = {**content, split: f"images/{split}", "names": dict(enumerate(names))}
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
