"""Image folders of Hugging Face's `datasets`: a line of JSON for each image in `metadata.jsonl`, beside the images.

Source: https://huggingface.co/docs/datasets/image_dataset
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from backbones.common.datasets import Record
from backbones.common.image_finder import ImageFinder
from backbones.common.json_lines import FILE, numbered_objects
from backbones.errors import UserError, first_names
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import Collector
from detection.data.layouts.files import FileLayout
from detection.data.layouts.open_images import UNLISTED
from detection.data.layouts.sniffing import head_of
from detection.data.layouts.yolo_yaml import parse_yaml_mapping
from detection.data.truth import Truth, read_text

CARD = "README.md"  # the data set's card, whose first lines may name the classes
BOXES = ("bbox", "bboxes", "boxes")
CLASSES = ("category", "categories", "label", "labels", "category_id", "class", "classes")
NUMBERED = "classes without names, called by their numbers"
UNLABELLED = "images without the field objects, which are left out"
_SILENT = Reading(on_problem=lambda *_: None)
_KEYS = (re.compile(r'"(\w+_)?file_name"\s*:'), re.compile(r'"objects"\s*:'))


@LAYOUTS.register("hugging-face")
class HuggingFaceLayout(FileLayout):
    """Hugging Face's image folders with boxes `[left, top, width, height]`."""

    name = "hugging-face"
    form = f"Hugging Face's {FILE} beside the images"
    file = f"{FILE} with file_name and objects"
    suffixes = (".jsonl",)

    def reads(self, path: Path) -> bool:
        head = head_of(path)
        return all(key.search(head) for key in _KEYS)

    def read_file(self, path: Path, images: Path, how: Reading, *, others: list[Path]) -> Truth:
        records, titles = Collector("hugging-face", path, ImageFinder(images), how, "object"), _titles(path)
        for number, entry in _entries(path, how):
            if entry.get("objects") is None:
                records.note(UNLABELLED)
                continue
            if fault := _fault(entry["objects"]):
                how.on_problem("malformed annotation", str(path), UserError(f"{path}: line {number}: {fault}"))
                continue
            size = [entry[side] for side in ("width", "height") if entry.get(side)]
            if records.add_image(_image(entry), path, size=size, where=f"line {number}") is not None:
                _add_objects(entry["objects"], titles, records)
        entries = {file: [entry for _, entry in _entries(file, _SILENT)] for file in (path, *others)}
        beside = [file for file in entries if file.parent == path.parent]  # may have images in the same folder
        records.note_unlisted(UNLISTED, (_image(entry) for file in beside for entry in entries[file]))
        return records.finish(titles or None, splits=[] if titles else map(_names, entries.values()))


def _add_objects(objects: object, titles: Sequence[str], records: Collector) -> None:
    """Add the objects of an image: a list of boxes and one of classes, or a list of both for each object."""
    for ordinal, (box, label) in enumerate(_pairs(objects), 1):
        title = titles[label] if type(label) is int and 0 <= label < len(titles) else label
        is_other = isinstance(title, str) and title.strip().casefold() not in {"", *map(str.casefold, titles)}
        if titles and (is_other or type(title) is int):
            text = f"its class {str(title)[:40]} is not one of the {len(titles)} in {CARD}; fix one of the two"
            records.refuse(ordinal, text)
            continue
        if type(title) is int:
            records.note(NUMBERED)
        records.add_object(title, box if isinstance(box, list) else [box], ordinal)


def _fault(objects: object) -> str:
    """Return why the objects of an image cannot be read, and what to do; "" if they can."""
    given = objects if isinstance(objects, list) else [objects]
    parts = [part for part in given if isinstance(part, dict)]
    if len(parts) < len(given):
        return "the field objects holds no objects; write boxes and classes into it"
    if lacking := next((part for part in parts if part and not part.keys() & {*BOXES}), None):
        return f"its objects have {first_names([*lacking])}, but no field bbox; rename the field of the boxes"
    values = [] if isinstance(objects, list) else [_value(objects, names) for names in (BOXES, CLASSES)]
    if not all(value is None or isinstance(value, list) for value in values):
        return "its boxes or classes are no list; write lists with a box and a class for each object"
    return ""


def _pairs(objects: object) -> list[tuple[object, object]]:
    """Return box and class of each object; a missing one is None."""
    if isinstance(objects, list):
        return [(_value(each, BOXES), _value(each, CLASSES)) for each in objects]
    boxes, labels = (value if isinstance(value := _value(objects, names), list) else [] for names in (BOXES, CLASSES))
    count = max(len(boxes), len(labels))
    return list(zip([*boxes, *[None] * (count - len(boxes))], [*labels, *[None] * (count - len(labels))], strict=True))


def _value(entry: object, names: Sequence[str]) -> object:
    """Return the value of the first of several keys that an entry has; None if it has none."""
    return next((entry[name] for name in names if name in entry), None) if isinstance(entry, dict) else None


def _names(entries: Sequence[Record]) -> set[str]:
    """Return the class names that the lines of a file use."""
    labels = (label for entry in entries for _, label in _pairs(entry.get("objects")))
    return {str(label).strip() for label in labels if isinstance(label, (str, int)) and not isinstance(label, bool)} - {
        ""
    }


def _image(entry: Record) -> object:
    return next((value for key, value in entry.items() if key == "file_name" or key.endswith("_file_name")), None)


def _entries(path: Path, how: Reading) -> Iterator[tuple[int, Record]]:
    """Yield the number of each line that is not blank, from 1, and its content."""
    for number, entry in numbered_objects(read_text(path)):
        if entry is not None:
            yield number, entry
        else:
            text = f"{path}: line {number}: is not a JSON object; write the file again"
            how.on_problem("malformed annotation", str(path), UserError(text))


def _titles(path: Path) -> list[str]:
    """Return the class names in the card of a data set, which lies beside a file or in a folder above; [] for none."""
    card = next((place for folder in path.parents[:3] if (place := folder / CARD).is_file()), None)
    text = read_text(card) if card else ""
    found = re.match(r"---\r?\n(.*?)\n---", text, re.DOTALL)
    content = parse_yaml_mapping(found[1], card) if found and card else {}
    return next(_lists(content.get("dataset_info"), inside=False), [])


def _lists(node: object, *, inside: bool) -> Iterator[list[str]]:
    """Yield the lists of class names in the features of a card, of those inside the feature `objects`."""
    if isinstance(node, list):
        for each in node:
            yield from _lists(each, inside=inside)
    if isinstance(node, dict):
        names = node["class_label"].get("names") if isinstance(node.get("class_label"), dict) else None
        values = list(names.values()) if isinstance(names, dict) else names
        if inside and isinstance(values, list):
            yield [str(value) for value in values]
        for each in node.values():
            yield from _lists(each, inside=inside or node.get("name") == "objects")
