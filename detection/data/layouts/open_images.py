"""Open Images: a CSV file of boxes for each split, a CSV file of class names, and the images.

Source: https://storage.googleapis.com/openimages/web/download_v7.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backbones.common.image_finder import ImageFinder
from backbones.common.listing import files_of, visible
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import Collector, as_number
from detection.data.layouts.csv_files import has_columns, read_cells, read_rows
from detection.data.layouts.files import split_word
from detection.data.layouts.images import (
    UNSPLIT,
    folders_of_splits,
    image_folder,
)
from detection.data.layouts.places import Place, PlacedLayout
from detection.data.truth import Truth

COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
UNLISTED = "images without a row, which are left out"
KEPT = {"IsOccluded": "occluded", "IsTruncated": "truncated"}


@LAYOUTS.register("open-images")
class OpenImagesLayout(PlacedLayout):
    """Open Images' own files, or FiftyOne's folders `SPLIT/data`, `SPLIT/labels` and `SPLIT/metadata`."""

    name = "open-images"
    form = "Open Images' SPLIT-annotations-bbox.csv and images"
    file = f"a CSV file with the columns {', '.join(COLUMNS)}"

    def places(self, root: Path) -> dict[str, Place]:
        return _files(root)

    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        titles = _titles(root)
        labels, names = zip(*(_labels_and_images(path) for path, _ in places.values()), strict=True)
        used = set[str]().union(*labels)
        known = [title for label, title in titles.items() if label in used]
        classes = known + sorted(label for label in used - titles.keys() if label.strip())
        own = [{titles.get(label, label) for label in part if label.strip()} for part in labels]
        records = _read(*places[split], titles, how)
        beside = (part for part, (_, images) in zip(names, places.values(), strict=True) if images == places[split][1])
        records.note_unlisted(UNLISTED, set[str]().union(*beside))
        return records.finish(list(dict.fromkeys(classes)), splits=own)


def _labels_and_images(path: Path) -> tuple[set[str], set[str]]:
    """Return the labels and the names of images in a file, without keeping its many lines."""
    labels, images = set[str](), set[str]()
    for _, row in read_rows(path):
        labels.add(row["LabelName"])
        images.add(row["ImageID"])
    return labels, images


def _read(path: Path, images: Path, titles: dict[str, str], how: Reading) -> Collector:
    records = Collector("open-images", path, ImageFinder(images), how, "line")
    rows: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for number, row in read_rows(path):
        rows.setdefault(row["ImageID"], []).append((number, row))
    for name, own in rows.items():
        image = records.add_image(name, path, where=f"line {own[0][0]}")
        if image is None:
            continue
        for number, row in own:
            sides = [as_number(row[column]) for column in COLUMNS[2:]]
            if None in sides or not all(-1 <= (side or 0) <= 2 for side in sides):
                records.refuse(number, "its box is not four fractions of the image's sides; fix the line")
                continue
            left, right, top, bottom = (side or 0.0 for side in sides)
            width, height = image["width"], image["height"]
            box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
            kept = {field: "1" for column, field in KEPT.items() if row.get(column) == "1"}
            title = titles.get(row["LabelName"], row["LabelName"])
            records.add_object(title, box, number, crowd=row.get("IsGroupOf") == "1", kept=kept)
    return records


def _files(root: Path) -> dict[str, Place]:
    """Return CSV file and image folder of each split."""
    found = {}
    for folder in folders_of_splits(root):
        path = folder / "labels" / "detections.csv"
        if has_columns(path, COLUMNS):
            found[folder.name] = path, folder / "data"
    for folder in () if found else (root, root / "annotations", root / "csv_folder"):
        for path in files_of(folder, ".csv"):
            if has_columns(path, COLUMNS):
                word = split_word(path) or UNSPLIT
                if word in found:
                    raise UserError(
                        f"--data {root}: {found[word][0].name} and {path.name} both hold the boxes of {word}; keep one"
                    )
                found[word] = path, image_folder(root, f"images/{word}", word)
    return found


def _titles(root: Path) -> dict[str, str]:
    """Return the titles of the labels, such as "/m/01g317", in the order of the file of class names."""
    places = [
        *files_of(root, ".csv"),
        *visible(root, "*/class-descriptions*.csv"),
        *visible(root, "*/metadata/classes.csv"),
    ]
    for path in places:
        if path.name == "classes.csv" or path.name.startswith(("class-descriptions", "oidv7-class-descriptions")):
            cells = [row[:2] for row in read_cells(path) if len(row) >= 2]
            return {label.strip(): title.strip() for label, title in cells if label.strip() != "LabelName"}
    return {}
