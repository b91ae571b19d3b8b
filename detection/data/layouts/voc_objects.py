"""Reads the objects of Pascal VOC's XML files."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from xml.etree.ElementTree import Element

from backbones.common.datasets import Record
from backbones.common.spellings import note_of
from backbones.common.values import is_text
from backbones.errors import UserError, first_names, shortened
from detection.data.truth import ProblemHandler, Truth

CORNERS = ("xmin", "ymin", "xmax", "ymax")
FURTHEST = 2**31  # pixels; limit of coordinates
KEPT = ("pose", "truncated", "occluded")  # elements that COCO's records keep as fields
PARTS = "parts of objects (<part>), which are left out"
OUTLINES = "outlines of objects (<polygon>), which are not read"


def add_objects(
    tree: Element,
    path: Path,
    classes: list[str],
    truth: Truth,
    on_problem: ProblemHandler,
    *,
    spellings: Mapping[str, str],
) -> None:
    """Append the objects of an annotation file to the annotations of the last added image.

    Args:
        spellings: names of classes by spellings that differ in capitals.
    """
    for ordinal, thing in enumerate(tree.iterfind("object"), 1):
        try:
            record = _object(thing, f"{path}: object {ordinal}", classes, spellings)
        except UserError as error:
            on_problem("malformed object", str(path), error)
            continue
        truth.ordinals.append(ordinal)
        if (given := (thing.findtext("name") or "").strip()) in spellings:
            truth.notes[note_of(given, spellings)] += 1
        if parts := len(thing.findall("part")):
            truth.notes[PARTS] += parts
        if outlines := len(thing.findall("polygon")):
            truth.notes[OUTLINES] += outlines
        own = {"id": len(truth.ordinals), "image_id": len(truth.files)}
        truth.data["annotations"].append({**own, **record})


def _object(thing: Element, where: str, classes: list[str], spellings: Mapping[str, str]) -> Record:
    """Convert VOC's XML element <object> to a COCO annotation record."""
    given = (thing.findtext("name") or "").strip()
    name = spellings.get(given, given)
    if not name or not is_text(name):
        raise UserError(f"{where}: has no <name>; fix the file")
    if name not in classes:
        raise UserError(
            f"{where}: its class {shortened(name)} is not in classes.txt ({first_names(classes)}); fix one of them"
        )
    difficult = (thing.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise UserError(f"{where}: <difficult> is {difficult[:40]!r}, not 0 or 1; fix <difficult>")
    left, top, right, bottom = (_coordinate(thing, corner, where) for corner in CORNERS)
    box = [float(left - 1), float(top - 1), float(right - left + 1), float(bottom - top + 1)]
    return {
        "category_id": classes.index(name) + 1,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": int(difficult),
        **{tag: value.strip() for tag in KEPT if (value := thing.findtext(tag))},
    }


def _coordinate(thing: Element, corner: str, where: str) -> Decimal:
    """Return a coordinate of an <object>'s box as a decimal, because 0.1 + 1 - 1 must be exactly 0.1."""
    text = (thing.findtext(f"bndbox/{corner}") or "").strip()
    value = as_decimal(text)
    if value is None:
        raise UserError(f"{where}: its <{corner}> is {text[:40]!r}, not a number of pixels; fix this value")
    return value


def as_decimal(text: str) -> Decimal | None:
    """Convert a text to a number of pixels, or return None if an image cannot have this number."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value) < FURTHEST else None
