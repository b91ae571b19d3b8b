"""Helpers for the data sets of all tasks: checks of file names, COCO's folders and records."""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from backbones.common.listing import subfolders
from backbones.common.values import LONGEST_SIDE, is_file_name, is_number, is_text
from backbones.errors import UserError, no_folder

# Other names of the splits that commands use by default, in the order in which they are tried.
SPLIT_NAMES = {"train": ("training", "default"), "val": ("valid", "validation", "dev")}
_YEAR = re.compile(r"([-_]?(19|20)\d\d)?")  # after the name of a split
Record: TypeAlias = dict[str, Any]  # of a JSON file


# Names


def leads_out(name: str) -> bool:
    """Return whether a file name is absolute or contains "..", and so may leave its folder.

    Every ".." counts, because after a link it leads elsewhere than the text says. Links themselves are allowed.
    """
    return os.path.isabs(name) or os.pardir in PurePath(name).parts


# Lists of classes


def listed_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number (from 1) and the content of each line of a text, without blank lines and comments.

    A comment begins with `#` at the start of a line, or with a `#` between spaces.
    """
    for number, line in enumerate(text.splitlines(), 1):
        content = re.sub(r"(^\s*#|\s#\s).*", "", line).strip()
        if content:
            yield number, content


# Splits


def existing_split(name: str, exists: Callable[[str], bool]) -> str:
    """Return the name of a split in a data set: `name`, or another usual name of the training or validation split.

    The test split never stands in for another one: it must be named.

    Args:
        name: "train", "val", or any other name, which has no substitutes.
        exists: whether the data set has a split of a name.

    Returns:
        The first name that exists, or `name` if there is none. Names with capitals, such as Train or TRAIN, come last.
    """
    usual = (name, *SPLIT_NAMES.get(name, ()))
    capitals = (change(each) for each in usual for change in (str.capitalize, str.upper))
    return next((each for each in (*usual, *capitals) if exists(each)), name)


# COCO's folders


def instances_files(root: Path, split: str = "") -> list[Path]:
    """Return the instances files of a split in COCO's layout, or by default of all splits.

    The files of a split `val` are `instances_val.json` or `instances_val2017.json`, or else those whose names go on
    with another character than a letter. So `instances_validation.json` belongs to another split.
    """
    files = sorted((root / "annotations").glob("instances_*.json"))
    if not split:
        return files
    parts = {path: path.stem.removeprefix(f"instances_{split}") for path in files}
    rests = {path: rest for path, rest in parts.items() if rest != path.stem and not rest[:1].isalpha()}
    return [path for path, rest in rests.items() if _YEAR.fullmatch(rest)] or list(rests)


def find_split(root: Path, split: str) -> tuple[Path, Path]:
    """Return the annotation file and the image folder of a split in COCO's layout.

    They are `annotations/instances_<split>*.json` and a folder `<split>*` or `images/<split>*` with the same ending, or
    else `images` for all splits.

    Raises:
        UserError: the file or folder does not exist, or there are several files.
    """
    if not root.is_dir():
        raise UserError(f"--data {root}: {no_folder(root)}; check the path")
    split = existing_split(split, lambda name: bool(instances_files(root, name)))
    found = instances_files(root, split)
    if not found:
        raise UserError(
            f"--data {root}: has no annotations/instances_{split}*.json; lay it out like COCO, or name its files with "
            "--train-annotations, --train-images, --val-annotations and --val-images"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(
            f"--data {root}: has several annotation files for {split} ({names}); choose one with --train-annotations "
            "or --val-annotations"
        )
    name = found[0].stem.removeprefix("instances_")
    for folder in (root / name, root / "images" / name, root / "images"):
        if folder.is_dir() and (folder.name == name or not subfolders(folder)):
            return found[0], folder
    raise UserError(
        f"--data {root}: has no image folder {name}/ or images/{name}/ for {found[0].name}; add it, or name the "
        "folder with --train-images or --val-images"
    )


# COCO's records


class Field(NamedTuple):
    """Rule for one field of a record.

    Attributes:
        is_valid: whether a value is allowed; None stands for a missing field.
        expected: description of the allowed values, for error messages.
    """

    is_valid: Callable[[object], bool]
    expected: str


def _is_id(value: object) -> bool:
    # Results store ids as float64, which is exact up to 2^53.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_side(value: object) -> bool:
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and 1 <= value <= LONGEST_SIDE and value == int(value)  # type: ignore[operator,call-overload]


def _is_category_name(value: object) -> bool:
    return is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def _is_flag(value: object) -> bool:
    return value is None or (isinstance(value, (bool, int, float)) and value in (0, 1))


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _is_outline(value: object) -> bool:
    return isinstance(value, (list, dict)) and bool(value)


_ID = Field(_is_id, "an integer between -2^53 and 2^53")
_SIDE = Field(_is_side, f"a whole number of pixels from 1 to {LONGEST_SIDE}")
# Kind of record -> field -> rule.
COCO_FIELDS: Mapping[str, Mapping[str, Field]] = {
    "image": {"id": _ID, "file_name": Field(is_file_name, "a file name"), "height": _SIDE, "width": _SIDE},
    "category": {"id": _ID, "name": Field(_is_category_name, "a text")},
    "annotation": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _ID,
        "bbox": Field(_is_box, "four numbers [x, y, w, h]"),
        "segmentation": Field(_is_outline, "polygons or run lengths"),
        "iscrowd": Field(_is_flag, "0 or 1"),
    },
}
_ID_FIELDS = ("id", "image_id", "category_id")
# Descriptions of harmless differences, which all readers of COCO's files count.
SIZES_READ, ODD_IDS = "sizes read from the image files", "annotations with a missing or repeated id"
_LISTS = {"images": "image", "categories": "category", "annotations": "annotation"}


def read_coco(path: Path) -> Record:
    """Read a COCO instances file. Its lists are not checked; see `records_of`.

    Ids such as 3.0 become integers. Categories without a name are named by `category_name`.

    LVIS's files have no file names but addresses in both of COCO's folders; their images get names such as
    val2017/000000000001.jpg.

    Raises:
        UserError: the file is missing, not JSON, or not a JSON object.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a COCO instances file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); name a COCO instances file") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a {type(data).__name__}; expected an object with `images` and `annotations`")
    _make_ids_whole(data)
    categories = data.get("categories")
    for category in categories if isinstance(categories, list) else ():
        if isinstance(category, dict):
            category["name"] = category_name(category)
    images = data.get("images")
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
            image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    return data


def _make_ids_whole(data: Record) -> None:
    """Convert ids such as 3.0, which some tools write, to integers."""
    for name in _LISTS:
        records = data.get(name)
        for record in records if isinstance(records, list) else ():
            for key in _ID_FIELDS if isinstance(record, dict) else ():
                value = record.get(key)
                if isinstance(value, float) and value.is_integer():
                    record[key] = int(value)


def category_name(category: Mapping[str, object]) -> object:
    """Return the name of a category, which is not checked. A category without a name, or of "", is named by its id."""
    name = category.get("name")
    return str(category.get("id")) if name is None or name == "" else name


def records_of(data: Record, name: str, path: Path) -> list[Record]:
    """Return the list "images", "categories" or "annotations" of a COCO instances file.

    Raises:
        UserError: the list is missing, or contains something else than objects.
    """
    records = data.get(name)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: has no list `{name}`; a COCO instances file has {', '.join(_LISTS)}")
    return records


def field(record: Record, kind: str, name: str, path: Path) -> Any:
    """Return a field of a record, checked by its rule in `COCO_FIELDS`.

    Args:
        kind: "image", "category" or "annotation".

    Raises:
        UserError: naming file, record and field, if the value is missing or not allowed.
    """
    rule = COCO_FIELDS[kind][name]
    if not rule.is_valid(record.get(name)):
        raise UserError(f"{path}: {kind} {_record_name(record)}: {field_problem(record, name, rule.expected)}")
    return record.get(name)


def field_problem(record: Mapping[str, object], name: str, expected: str) -> str:
    """Return the text of an error about a field whose value is not allowed."""
    found = f"is {reprlib.repr(record[name])}" if name in record else "is missing"
    return f"`{name}` {found}; expected {expected}"


def file_of_image(image: Record, path: Path, *, allow_outside: bool) -> str:
    """Return the file name of an image record, relative to the image folder.

    Raises:
        UserError: the name is missing, is no file name, or leads out of the folder without `allow_outside`.
    """
    name = field(image, "image", "file_name", path)
    if leads_out(name) and not allow_outside:
        raise UserError(
            f"{path}: image {_record_name(image)}: `file_name` {reprlib.repr(name)} leads out of the image folder; "
            "fix the file, or pass --allow-outside true if you trust it"
        )
    return name


def refuse_duplicates(values: Iterable[Hashable], what: str, path: Path) -> None:
    """Refuse a list in which a value occurs more than once.

    Args:
        what: what the values are, such as "image id".

    Raises:
        UserError: naming the first value that occurs again.
    """
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            raise UserError(f"{path}: {what} {reprlib.repr(value)} is a duplicate; fix the file")
        seen.add(value)


def count_odd_ids(annotations: Iterable[Record]) -> int:
    """Return how many annotations have an id that is missing, malformed or a duplicate. Nothing refers to these ids."""
    ids = [annotation.get("id") for annotation in annotations]
    return len(ids) - len({value for value in ids if _is_id(value)})


def spread(size: int, sample: int) -> np.ndarray:
    """Return the indices of at most `sample` of `size` images, evenly spread; 0 means all images.

    The images of a folder are sorted by class, so that all classes are sampled in proportion.
    """
    count = min(size, sample or size)
    return np.arange(count) * size // max(count, 1)


def files_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder, without those in its sub-folders."""
    return {entry.name for entry in os.scandir(folder) if entry.is_file()}


def refuse_absent_files(names: Iterable[str], folder: Path, path: Path, *, present: Container[str]) -> None:
    """Refuse file names of images that are not in a folder.

    Args:
        present: `files_in(folder)`. Listing the folder once is much faster than asking for each file; only names below
            sub-folders are asked for.
        path: the annotation file, for the message.

    Raises:
        UserError: naming the first absent file.
    """
    for name in names:
        if name not in present and not os.path.isfile(folder / name):
            raise UserError(
                f"{path}: image file {name} is not in {folder}; fix the annotations, or pass --on-bad-image skip"
            )


def _record_name(record: Record) -> str:
    """Return a record's id, or the beginning of the record if it has no id."""
    return reprlib.repr(record.get("id", record))
