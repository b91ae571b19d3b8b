"""VIA (VGG Image Annotator 1 to 3): a project, its annotations as JSON or as CSV, and the images.

Source: https://www.robots.ox.ac.uk/~vgg/software/via/
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from backbones.common.datasets import Record
from backbones.common.turning import box_of_ellipse, ellipse
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import NO_AREA, NO_NAME, Collector, as_number, box_around, numbers
from detection.data.layouts.csv_files import has_columns, read_rows
from detection.data.layouts.files import FileLayout
from detection.data.layouts.json_files import read_json
from detection.data.layouts.sniffing import VIA_3, json_kind
from detection.data.layouts.via3 import images_of_project
from detection.data.truth import Truth

COLUMNS = ("region_shape_attributes", "region_attributes")
CLASS_NAMES = ("class", "label", "name", "category", "type", "object", "object_name", "species")
ONE_CLASS = "regions without attributes, read as class object"
SHAPES = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r", "r"), "ellipse": ("cx", "cy", "rx", "ry")}


@LAYOUTS.register("via")
class ViaLayout(FileLayout):
    """VIA's files."""

    name = "via"
    form = "VIA's JSON or CSV and images"
    file = "a JSON or CSV file of VIA"
    suffixes = (".json", ".csv")
    joins = True

    def reads(self, path: Path) -> bool:
        return has_columns(path, COLUMNS) if path.suffix.lower() == ".csv" else json_kind(path) == "via"

    def read_file(self, path: Path, images: Path, how: Reading, *, others: list[Path]) -> Truth:
        entries, options = _entries(path, how)
        attribute = _class_attribute(path, entries)
        records = Collector("via", path, self.images_in(images), how, "region")
        for entry in entries:
            record = records.add_image(entry["filename"], path, where=f"image {str(entry['filename'])[:80]!r}")
            if record is not None:
                _add_regions(entry["regions"], attribute, options, records)
        used = self.classes_of_each((path, *others))
        return records.finish(None if any(used) else ["object"], splits=used)

    def classes_in(self, path: Path) -> list[str]:
        return sorted({*_names(path)})


def _add_regions(regions: list[Record], attribute: str | None, options: Record, records: Collector) -> None:
    for ordinal, region in enumerate(regions, 1):
        shape = region.get("shape_attributes")
        kind = shape.get("name") if isinstance(shape, dict) else None
        if not isinstance(shape, dict) or kind in ("point", "polyline", None):
            records.note(NO_AREA)
            continue
        found = _shape(shape)
        if found is None:
            records.refuse(ordinal, f"is no {str(kind)[:20]}: {str(shape)[:80]}; fix the region")
            continue
        names = ["object"] if attribute is None else _values(region, attribute, options)
        records.note(ONE_CLASS) if attribute is None else None
        if not names:
            records.note(NO_NAME)
        for name in names:
            records.add_object(name, found[0], ordinal, outline=found[1])


def _shape(shape: Record) -> tuple[list[float], list[list[float]]] | None:
    """Return box and polygons of a region; None if the region is malformed."""
    if shape["name"] in ("polygon", "extreme_rect"):
        xs, ys = numbers(shape.get("all_points_x")), numbers(shape.get("all_points_y"))
        if xs is None or ys is None or len(xs) != len(ys) or len(xs) < 3:
            return None
        points = [part for pair in zip(xs, ys, strict=True) for part in pair]
        return box_around(points), [points] if shape["name"] == "polygon" else []
    sides = [as_number(shape.get(name)) for name in SHAPES.get(str(shape["name"]), ())]
    known = [side for side in sides if side is not None]
    if len(known) != 4:
        return None
    x, y, across, down = known
    if shape["name"] == "rect":
        return known, []
    angle = math.degrees(as_number(shape.get("theta") or 0) or 0.0)  # VIA writes radians
    box = [x - across, y - down, 2 * across, 2 * down]
    return box_of_ellipse(box, angle), [ellipse(box, angle)]


def _values(region: Record, attribute: str, options: Record) -> list[str]:
    """Return the values of an attribute of a region. Check boxes are `{value: true}`."""
    attributes = region.get("region_attributes")
    value = attributes.get(attribute) if isinstance(attributes, dict) else None
    given = [key for key, chosen in value.items() if chosen] if isinstance(value, dict) else [value]
    titles = (options.get(str(key)) or key for key in given)
    return [str(title).strip() for title in titles if isinstance(title, (str, int)) and str(title).strip()]


def _class_attribute(path: Path, entries: Iterable[Record]) -> str | None:
    """Return the attribute of the regions that holds the class; None if no region has an attribute.

    Raises:
        UserError: it is not clear which attribute holds the class.
    """
    regions = [region["region_attributes"] for entry in entries for region in entry["regions"]]
    used = Counter(key for attributes in regions for key, value in attributes.items() if value not in ("", {}, None))
    usual = [name for name in used if name.lower() in CLASS_NAMES]
    if len(used) == 1 or len(usual) == 1:
        return (usual or list(used))[0]
    if not used:
        return None
    raise UserError(
        f"{path}: its regions have the attributes {', '.join(list(used)[:5])}; rename the one that holds the class to "
        "`class`"
    )


def _names(path: Path) -> list[str]:
    entries, options = _entries(path, Reading(on_problem=lambda *_: None))
    attribute = _class_attribute(path, entries)
    regions = [region for entry in entries for region in entry["regions"]]
    return [name for region in regions for name in _values(region, attribute, options)] if attribute else []


def _entries(path: Path, how: Reading) -> tuple[list[Record], Record]:
    """Return the images with their regions, and the titles of options by their keys."""
    if path.suffix.lower() == ".csv":
        return list(_entries_of_csv(path, how)), {}
    data = read_json(path)
    project = data.get("_via_attributes") if isinstance(data, dict) else None
    images = data.get("_via_img_metadata", data) if isinstance(data, dict) else None
    images = images_of_project(images) if isinstance(images, dict) and images.keys() >= VIA_3 else images
    if not isinstance(images, dict):
        raise UserError(f"{path}: has no images; save the project, or export the annotations as JSON, with VIA")
    checked = (_entry(path, str(key), image, how) for key, image in images.items())
    return [entry for entry in checked if entry is not None], _options(project)


def _entry(path: Path, key: str, image: object, how: Reading) -> Record | None:
    regions = image.get("regions") if isinstance(image, dict) else None
    listed = list(regions.values()) if isinstance(regions, dict) else regions
    if not isinstance(image, dict) or not isinstance(listed, list) or not all(isinstance(r, dict) for r in listed):
        error = UserError(f"{path}: image {key[:80]!r} has no list `regions`; export the file again")
        how.on_problem("malformed annotation", str(path), error)
        return None
    for region in listed:
        if not isinstance(region.get("region_attributes"), dict):
            region["region_attributes"] = {}
    return {"filename": image.get("filename"), "regions": listed}


def _entries_of_csv(path: Path, how: Reading) -> Iterator[Record]:
    entries: dict[str, Record] = {}
    for number, row in read_rows(path):
        name = row.get("filename") or row.get("#filename") or ""
        entry = entries.setdefault(name, {"filename": name, "regions": []})
        try:
            shape, attributes = (json.loads(row.get(column) or "{}") for column in COLUMNS)
            if not isinstance(shape, dict) or not isinstance(attributes, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            text = f"{path}: line {number}: holds no JSON in {' or '.join(COLUMNS)} ({error}); export the file again"
            how.on_problem("malformed annotation", str(path), UserError(text))
            continue
        if shape:
            entry["regions"].append({"shape_attributes": shape, "region_attributes": attributes})
    yield from entries.values()


def _options(project: object) -> Record:
    """Return the titles of the options of all attributes, by the keys that the regions hold."""
    regions = project.get("region") if isinstance(project, dict) else None
    found: Record = {}
    for attribute in regions.values() if isinstance(regions, dict) else ():
        options = attribute.get("options") if isinstance(attribute, dict) else None
        if isinstance(options, dict):
            found |= {str(key): title for key, title in options.items() if isinstance(title, str) and title.strip()}
    return found
