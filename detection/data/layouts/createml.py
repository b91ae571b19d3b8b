"""Create ML's JSON, as Roboflow and labelImg write it: a list of images with boxes given by centre and size in pixels.

Source: https://developer.apple.com/documentation/createml/building-an-object-detector-data-source
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from backbones.common.datasets import Record
from backbones.common.image_finder import ImageFinder
from backbones.common.listing import files_of
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import Collector, as_number
from detection.data.layouts.images import UNSPLIT, folders_of_splits, image_folder
from detection.data.layouts.json_files import read_json
from detection.data.layouts.places import Place, PlacedLayout
from detection.data.layouts.sniffing import json_kind
from detection.data.truth import Truth

UNLISTED = "images without an entry, which are left out"


@LAYOUTS.register("createml")
class CreateMlLayout(PlacedLayout):
    """Create ML's JSON: one file for all images (Roboflow), or one for each image (labelImg)."""

    name = "createml"
    form = "Create ML's JSON and images"
    file = "JSON files of Create ML"

    def places(self, root: Path) -> dict[str, Place]:
        found = {folder.name: (folder, image_folder(folder)) for folder in folders_of_splits(root) if _files(folder)}
        if found:
            return found
        folder = next((each for each in (root, root / "annotations", root / "labels") if _files(each)), None)
        return {} if folder is None else {UNSPLIT: (folder, image_folder(root))}

    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        folder, images = places[split]
        records = Collector("createml", folder, ImageFinder(images), how, "annotation")
        for path in _files(folder):
            for number, entry in enumerate(_entries(path), 1):
                if records.add_image(entry.get("image"), path, where=f"image {number}") is not None:
                    _add_boxes(entry["annotations"], records)
        records.note_unlisted(UNLISTED)
        return records.finish(splits=[_names(folder) for folder, _ in places.values()])


def _add_boxes(annotations: list[object], records: Collector) -> None:
    for ordinal, annotation in enumerate(annotations, 1):
        sides = annotation.get("coordinates") if isinstance(annotation, dict) else None
        if not isinstance(annotation, dict) or not isinstance(sides, dict):
            records.refuse(ordinal, "has no `coordinates`; fix the file")
            continue
        values = [as_number(sides.get(side)) for side in ("x", "y", "width", "height")]
        x, y, width, height = (0.0 if value is None else value for value in values)
        box = [None] if None in values else [x - width / 2, y - height / 2, width, height]
        records.add_object(annotation.get("label"), box, ordinal)


def _files(folder: Path) -> list[Path]:
    return [path for path in files_of(folder, ".json") if json_kind(path) == "createml"]


def _entries(path: Path) -> Iterator[Record]:
    data = read_json(path)
    if not isinstance(data, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("annotations"), list) for entry in data
    ):
        raise UserError(f"{path}: is not a list of images with `annotations`; export the file again")
    yield from data


def _names(folder: Path) -> set[str]:
    """Return the class names that the files of a folder use."""
    each = (a for path in _files(folder) for entry in _entries(path) for a in entry["annotations"])
    labels = (annotation.get("label") for annotation in each if isinstance(annotation, dict))
    return {label.strip() for label in labels if isinstance(label, str) and label.strip()}
