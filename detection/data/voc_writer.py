"""Writes detection data sets in Pascal VOC's layout; `detection/data/layouts/voc.py` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import PIL.Image

from backbones.common.datasets import Record, listed_lines
from backbones.errors import UserError
from detection.data.layouts.voc import INSTANCES, LISTS
from detection.data.layouts.voc_objects import CORNERS, FURTHEST, KEPT
from detection.data.truth import Truth
from detection.data.writers import Lost, by_image, class_names, digits, link_image, refuse_box, stems_of
from detection.data.written_masks import WrittenMasks


def write_voc(folder: Path, split: str, truth: Truth, *, drop: bool, masks: bool) -> Lost:
    """Write a split in VOC's layout: `Annotations/`, `JPEGImages/`, `ImageSets/Main/SPLIT.txt` and `classes.txt`.

    A crowd becomes a difficult object. With masks, value n in `SegmentationObject/NAME.png` is object n.
    """
    names, lost = class_names(truth), Lost()
    written = WrittenMasks(True, lost)
    _refuse_comments(truth, names.values())
    stems = stems_of(truth)
    for image, indices in by_image(truth):
        path = folder / "Annotations" / f"{stems[image['id']]}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        root, painted = annotation_element(image), list[np.ndarray | None]()
        for index in indices:
            record = truth.data["annotations"][index]
            lost["outlines"] += not masks and bool(record.get("segmentation"))
            if any(abs(value) * 2 >= FURTHEST for value in record["bbox"]):
                refuse_box(truth, index, "reaches too far", lost, drop)
                continue
            root.append(object_element(record, names[record["category_id"]]))
            painted.append(written.mask(record, image) if masks else None)
        if masks:
            _write_instance_map(folder / INSTANCES / f"{stems[image['id']]}.png", painted, image, lost)
        ElementTree.indent(root, "\t")
        path.write_bytes(ElementTree.tostring(root, encoding="utf-8"))
        link_image(truth, image, folder / "JPEGImages")
    (folder / LISTS).mkdir(parents=True, exist_ok=True)
    (folder / LISTS / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems.values()), encoding="utf-8")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names.values()), encoding="utf-8")
    return +lost


def _write_instance_map(path: Path, masks: Sequence[np.ndarray | None], image: Record, lost: Lost) -> None:
    """Write the masks of an image's objects as numbers 1, 2, ...; later objects cover earlier ones."""
    wide = len(masks) > np.iinfo(np.uint8).max
    pixels = np.zeros((image["height"], image["width"]), np.uint16 if wide else np.uint8)
    for number, mask in enumerate(masks, 1):
        if mask is not None:
            pixels[mask] = number
    for number, mask in enumerate(masks, 1):
        lost["parts of masks that a later object covers"] += mask is not None and bool((pixels[mask] != number).any())
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def _refuse_comments(truth: Truth, names: Iterable[str]) -> None:
    """Refuse class names that contain what begins a comment in `classes.txt`."""
    for name in names:
        if [content for _, content in listed_lines(name)] != [name]:
            raise UserError(
                f"{truth.path}: class {name!r} contains a #, which begins a comment in classes.txt; rename it"
            )


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
