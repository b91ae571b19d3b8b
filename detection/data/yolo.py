"""YOLO's folders: `images/SPLIT/NAME.jpg` beside `labels/SPLIT/NAME.txt`, a box a line: class, centre, size.

hotcoco reads and writes single folders of labels, but drops the suffixes of image files, and rounds to six digits.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import yaml

from backbones.common.datasets import Record, is_text
from backbones.common.images import image_size
from backbones.errors import UserError
from detection.data.truth import (
    Note,
    Truth,
    checked_names,
    images_below,
    read_names,
    read_text,
    refuse,
)
from detection.data.voc import unknown_size

BEYOND = 0.01  # of the image's side that rounding may put a centre outside; Ultralytics takes the same
DECIMALS = 9  # of a pixel: divided by a side and multiplied again, whole pixels stay whole


def is_yolo_folder(root: Path) -> bool:
    """Whether a data set is laid out like those of YOLO; label maps, which look alike, are pictures."""
    if not (root / "data.yaml").is_file() and not (root / "classes.txt").is_file():
        return False
    folders = [root / "labels", *root.glob("*/labels")]
    return any(next(folder.rglob("*.txt"), None) for folder in folders if folder.is_dir())


def read_yolo(
    root: Path, split: str, *, absent_images: Literal["error", "keep"] = "error", note: Note = refuse
) -> Truth:
    """The images of a split with their boxes; one without a label file has none.

    Roboflow's order of folders, `SPLIT/images`, will do. The classes are those of `data.yaml` or `classes.txt`. A
    polygon stands for the box around it. Sizes are those that the image files say, turned by EXIF.

    Args:
        absent_images: whether every image must be there.
        note: what to do about a problem; a record with one is left out.

    Raises:
        UserError: for classes or folders that cannot be read, and, by `note`, for what else is malformed.
    """
    names = read_classes(root)
    images, labels = _folders(root, split)
    by_stem = images_below(images)
    files = _pairs(by_stem, images, labels, absent_images, note)
    data: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    truth = Truth("yolo", labels, images, data)
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(lambda name: _size(images / name, absent_images), files))
    for (name, path), size in zip(files.items(), sizes, strict=True):
        if isinstance(size, UserError):
            note("undecodable file", str(images / name), size)
            continue
        height, width = size
        truth.files.append(str(path))
        data["images"].append({"id": len(truth.files), "file_name": name, "width": width, "height": height})
        _add_boxes(path, (width, height), names, truth, note)
    return truth


def read_classes(root: Path) -> list[str]:
    """Class names by number, from `data.yaml` or `classes.txt`.

    Raises:
        UserError: where there is neither, one is malformed, or they differ.
    """
    text, listed = root / "classes.txt", root / "data.yaml"
    found = [_names_of_yaml(listed)] if listed.is_file() else []
    found += [read_names(text)] if text.is_file() else []
    if not found:
        raise UserError(f"{root}: has neither data.yaml nor classes.txt, which name the classes")
    if found[0] != found[-1]:
        raise UserError(f"{text}: names other classes than {listed}; mend one or remove it")
    return found[0]


def _names_of_yaml(path: Path) -> list[str]:
    try:
        data = yaml.safe_load(read_text(path))
    except UserError:
        raise
    except Exception as error:  # PyYAML lets any kind out, such as an IndexError for `!!int`
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split()) or type(error).__name__})") from None
    names = data.get("names") if isinstance(data, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(_is_title(name) for name in names):
        raise UserError(f"{path}: `names` is no list of class names, nor one by number from 0; mend it")
    count = data.get("nc", len(names))
    if count != len(names):
        raise UserError(f"{path}: `nc` is {str(count)[:40]}, but there are {len(names)} `names`; mend it")
    return checked_names(path, [str(name) for name in names])


def _is_title(value: Any) -> bool:
    return (is_text(value) and bool(value)) or (isinstance(value, int) and not isinstance(value, bool))


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Folders of images and labels of a split."""
    choices = [(root / "images" / split, root / "labels" / split), (root / split / "images", root / split / "labels")]
    found = [pair for pair in choices if pair[0].is_dir()]
    if not found:
        kept = [root / "images", root] if (root / "images").is_dir() else [root]
        there = ", ".join(sorted(p.name for p in kept[0].iterdir() if p.is_dir())) or "none"
        raise UserError(f"{choices[0][0]}: no such folder of images; the folders in {kept[0]}: {there}")
    images, labels = found[0]
    if not labels.is_dir():
        raise UserError(f"{labels}: no such folder of labels for the images in {images}")
    return images, labels


def _pairs(by_stem: dict[str, list[str]], images: Path, labels: Path, absent: str, note: Note) -> dict[str, Path]:
    """The label file, which need not be there, of each image file, by name."""
    there = {path.relative_to(labels).with_suffix("").as_posix(): path for path in labels.rglob("*.txt")}
    there.pop("classes", None)  # which labelImg leaves among them
    pairs: dict[str, Path] = {}
    for stem, names in by_stem.items():
        if len(names) > 1:
            text = f"{images / names[0]}: {names[1]} has the same name but for the suffix, and both would share labels"
            note("duplicate file name", str(images / names[0]), UserError(f"{text}; rename one"))
        pairs[names[0]] = labels / f"{stem}.txt"
    for stem in sorted(there.keys() - by_stem.keys()):
        if absent == "error":
            text = f"{there[stem]}: there is no image of this name in {images}; add it, or pass --on-bad-image skip"
            note("missing file", str(there[stem]), UserError(text))
        else:
            pairs[f"{stem}.jpg"] = there[stem]
    if not pairs:
        raise UserError(f"{images}: holds no images")
    return dict(sorted(pairs.items()))


def _size(path: Path, absent: str) -> tuple[int, int] | UserError:
    try:
        return image_size(path, apply_exif=True)
    except UserError as error:
        return error if absent == "error" else unknown_size()


def _add_boxes(path: Path, size: tuple[int, int], names: list[str], truth: Truth, note: Note) -> None:
    if not os.path.isfile(path):
        return  # a negative
    try:
        lines = read_text(path).splitlines()
    except UserError as error:
        note("malformed label", str(path), error)
        return
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = _box(line.split(), f"{path}: line {place}", size, names)
        except UserError as error:
            note("malformed label", str(path), error)
            continue
        truth.ordinals.append(place)
        truth.data["annotations"].append({"id": len(truth.ordinals), "image_id": len(truth.files), **record})


def _box(words: list[str], where: str, size: tuple[int, int], names: list[str]) -> Record:
    """A line: class number, then centre and size, or the points of a polygon, all in shares of the image's sides."""
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise UserError(f"{where}: has {len(words)} values, not class, centre x, centre y, width and height; mend it")
    try:
        label, *values = (float(word) for word in words)
    except ValueError:
        raise UserError(f"{where}: {' '.join(words)[:60]!r} holds what is no number; mend it") from None
    if label not in range(len(names)):
        raise UserError(f"{where}: class {words[0][:40]} is none of the {len(names)} (0 to {len(names) - 1}); mend it")
    if not all(-BEYOND <= value <= 1 + BEYOND for value in values):  # NaN is not, either
        text = "pixels? Shares of the image's sides run from 0 to 1"
        raise UserError(f"{where}: {' '.join(words[1:])[:60]} holds {text}; mend it")
    if len(values) > 4:
        xs, ys = values[0::2], values[1::2]
        left, top, width, height = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    else:
        x, y, width, height = values
        left, top = x - width / 2, y - height / 2
    if min(width, height) < 0:
        raise UserError(f"{where}: has a negative width or height; mend it")
    shares = zip((left, top, width, height), size * 2, strict=True)
    box = [round(share * side, DECIMALS) + 0.0 for share, side in shares]
    assert all(map(math.isfinite, box))
    return {"category_id": int(label) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
