"""Reads YOLO's layout: `images/SPLIT/NAME.jpg`, and `labels/SPLIT/NAME.txt` with one box per line.

hotcoco reads and writes single folders of labels too, but drops the suffixes of image files and rounds to six digits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import yaml

from backbones.common.datasets import Record, is_text
from backbones.common.images import image_size
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Layout, Reading, Sign
from detection.data.truth import (
    FolderImages,
    ProblemHandler,
    Truth,
    checked_names,
    read_names,
    read_text,
    unknown_size,
)

BEYOND = 0.01  # fraction of a side by which a value may lie outside 0..1; Ultralytics' tolerance
FAR = 1.0  # fraction of a side; a value that lies farther outside 0..1 is no fraction, but a number of pixels
BAD_BOX = "unusable box"  # kind of the problem
DECIMALS = 9  # of a pixel: a whole number of pixels stays whole after division by a side and multiplication


class UnusableBoxError(UserError):
    """Error about a line whose box cannot be used in training. `--bad-boxes drop` leaves the box out."""


@LAYOUTS.register("yolo")
class YoloLayout(Layout):
    """YOLO's layout. In the similar layout of segmentation data, the labels are images."""

    name = "yolo"
    form = "YOLO's images/SPLIT, labels/SPLIT and data.yaml or classes.txt"

    def signs(self, root: Path) -> Iterator[Sign]:
        yield "data.yaml or classes.txt", (root / "data.yaml").is_file() or (root / "classes.txt").is_file()
        folders = [folder for folder in (root / "labels", *root.glob("*/labels")) if folder.is_dir()]
        yield "labels as *.txt in a folder labels", any(next(folder.rglob("*.txt"), None) for folder in folders)

    def splits(self, root: Path) -> list[str]:
        found = [*(root / "images").glob("*/"), *(folder.parent for folder in root.glob("*/images/"))]
        return sorted({folder.name for folder in found if folder.is_dir()})

    def has_split(self, root: Path, name: str) -> bool:
        return any(folder.is_dir() for folder in (root / "images" / name, root / name / "images"))

    def read(self, root: Path, split: str, how: Reading) -> Truth:
        return _read_and_drop(root, split, how)


def _read_and_drop(root: Path, split: str, how: Reading) -> Truth:
    """Read a split. Boxes far outside their image are left out and counted if `how` says so."""
    dropped: list[str] = []

    def drop(kind: str, file: str, error: UserError) -> None:
        if kind == BAD_BOX and how.bad_boxes == "drop":
            dropped.append(file)
        else:
            how.on_problem(kind, file, error)

    truth = read_yolo(root, split, replace(how, on_problem=drop))
    if dropped:
        truth.notes["boxes far outside their image dropped"] += len(dropped)
    return truth


def read_yolo(root: Path, split: str, how: Reading) -> Truth:
    """Read the images of a split with their boxes. An image without a label file has no box.

    Folders may also be nested as `SPLIT/images` (Roboflow). The classes are those of `data.yaml` or `classes.txt`. A
    polygon is replaced by the box around it. Sizes are those of the image files after EXIF rotation.

    Raises:
        UserError: classes or folders cannot be read, or `how.on_problem` raises the error of a record.
    """
    absent_images, on_problem = how.absent_images, how.on_problem
    names, keypoints = read_classes(root), read_keypoints(root)
    images, labels = _folders(root, split)
    found = FolderImages.of(images)
    files = _pairs(found.by_stem, images, labels, absent_images, on_problem)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    data: Record = {"images": [], "annotations": [], "categories": categories}
    truth = Truth("yolo", labels, images, data, passed_over=found.passed_over)
    # Read the headers of the image files in parallel.
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(lambda name: _size(images / name, absent_images), files))
    for (name, path), size in zip(files.items(), sizes, strict=True):
        if isinstance(size, UserError):
            on_problem("undecodable file", str(images / name), size)
            continue
        height, width = size
        truth.files.append(str(path))
        record = {"id": len(truth.files), "file_name": name, "width": width, "height": height}
        truth.data["images"].append(record)
        _add_boxes(path, (width, height), names, keypoints, truth, on_problem)
    return truth


def read_classes(root: Path) -> list[str]:
    """Read the class names from `data.yaml` or `classes.txt`, in the order of their numbers.

    Raises:
        UserError: neither file exists, one is malformed, or they differ.
    """
    text, listed = root / "classes.txt", root / "data.yaml"
    found = [_names_of_yaml(listed)] if listed.is_file() else []
    found += [read_names(text)] if text.is_file() else []
    if not found:
        raise UserError(
            f"{root}: has neither data.yaml nor classes.txt; add one of them, with the names of the classes"
        )
    if found[0] != found[-1]:
        raise UserError(f"{text}: lists other classes than {listed}; fix or remove one of the two files")
    return found[0]


def read_keypoints(root: Path) -> int:
    """Return how many keypoint values follow the box on each line of a pose data set; 0 for other data sets.

    The number follows from `kpt_shape` in `data.yaml`: [17, 3] means 17 points with x, y and visibility.

    Raises:
        UserError: `kpt_shape` is malformed.
    """
    path = root / "data.yaml"
    shape = _yaml(path).get("kpt_shape") if path.is_file() else None
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
        raise UserError(
            f"{path}: `kpt_shape` is {str(shape)[:40]}; write [number of points, values per point], such as [17, 3]"
        )
    return int(shape[0] * shape[1])


def _without_keypoints(words: list[str], keypoints: int, truth: Truth) -> list[str]:
    """Remove the keypoints from a line of a pose data set, and count the line; return other lines unchanged."""
    if not keypoints or len(words) != 5 + keypoints:
        return words
    truth.notes["poses read as boxes, without their points"] += 1
    return words[:5]


def _yaml(path: Path) -> Record:
    """Return the content of a data.yaml, or {} if the content is not a mapping."""
    try:
        data = yaml.safe_load(read_text(path))
    except UserError:
        raise
    except Exception as error:  # PyYAML raises many types, such as an IndexError for `!!int`
        raise UserError(
            f"{path}: is not valid YAML ({' '.join(str(error).split()) or type(error).__name__}); fix the file"
        ) from None
    return data if isinstance(data, dict) else {}


def _names_of_yaml(path: Path) -> list[str]:
    """Return the class names in a `data.yaml`. They are a list, or a mapping from the numbers 0, 1, ... to names."""
    data = _yaml(path)
    names = data.get("names")
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(_is_title(name) for name in names):
        raise UserError(f"{path}: `names` is neither a list of class names nor a mapping from 0, 1, ...; fix `names`")
    count = data.get("nc", len(names))
    if count != len(names):
        raise UserError(
            f"{path}: `nc` is {str(count)[:40]}, but `names` lists {len(names)} classes; fix one of the two entries"
        )
    return checked_names(path, [str(name) for name in names])


def _is_title(value: object) -> bool:
    """Return whether a value can be a class name."""
    return (is_text(value) and bool(value)) or (isinstance(value, int) and not isinstance(value, bool))


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Return the folders of images and labels of a split."""
    choices = [(root / "images" / split, root / "labels" / split), (root / split / "images", root / split / "labels")]
    found = [pair for pair in choices if pair[0].is_dir()]
    if not found:
        parent = root / "images" if (root / "images").is_dir() else root
        there = ", ".join(sorted(p.name for p in parent.iterdir() if p.is_dir())) or "none"
        raise UserError(f"{choices[0][0]}: no such folder of images; name one of the folders in {parent} ({there})")
    images, labels = found[0]
    if not labels.is_dir():
        raise UserError(
            f"{labels}: no such folder, but the images in {images} need it for their labels; create it, or "
            "name another split"
        )
    return images, labels


def _pairs(
    by_stem: dict[str, list[str]], images: Path, labels: Path, absent: str, on_problem: ProblemHandler
) -> dict[str, Path]:
    """Return a dict from image names to paths of label files. A label file need not exist.

    Args:
        by_stem: names of image files by name without suffix.
        images, labels: the folders.
        absent: whether a label file without an image is an error ("error") or not ("keep").
    """
    there = {path.relative_to(labels).with_suffix("").as_posix(): path for path in _visible(labels)}
    there.pop("classes", None)  # labelImg writes its classes.txt among the labels
    pairs: dict[str, Path] = {}
    for stem, names in by_stem.items():
        if len(names) > 1:
            text = f"{images / names[0]}: {names[1]} has the same name except for the suffix, so that both have the "
            text += "same label file; rename one"
            on_problem("duplicate file name", str(images / names[0]), UserError(text))
        pairs[names[0]] = labels / f"{stem}.txt"
    for stem in sorted(there.keys() - by_stem.keys()):
        if absent == "error":
            text = f"{there[stem]}: there is no image of this name in {images}; add it, or pass --on-bad-image skip"
            on_problem("missing file", str(there[stem]), UserError(text))
        else:
            pairs[f"{stem}.jpg"] = there[stem]
    if not pairs:
        raise UserError(f"{images}: holds no images; add some, or name another split")
    return dict(sorted(pairs.items()))


def _visible(labels: Path) -> Iterator[Path]:
    """Yield the text files in a folder and its subfolders, without hidden ones such as macOS's `._NAME.txt`."""
    return (path for path in labels.rglob("*.txt") if not path.name.startswith("."))


def _size(path: Path, absent: str) -> tuple[int, int] | UserError:
    """Return height and width of an image file after EXIF rotation, or the error if it cannot be read."""
    try:
        return image_size(path, apply_exif=True)
    except UserError as error:
        return error if absent == "error" else unknown_size()


def _add_boxes(
    path: Path,
    size: tuple[int, int],
    names: list[str],
    keypoints: int,
    truth: Truth,
    on_problem: ProblemHandler,
) -> None:
    """Append the boxes of a label file to the annotations of the last added image.

    Args:
        size: width and height of the image.
        keypoints: number of values after the box on lines of poses.
    """
    if not os.path.isfile(path):
        return  # an image without objects
    try:
        lines = read_text(path).splitlines()
    except UserError as error:
        on_problem("malformed label", str(path), error)
        return
    for ordinal, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            words = _without_keypoints(line.split(), keypoints, truth)
            record = _record(words, f"{path}: line {ordinal}", size, names)
        except UnusableBoxError as error:
            on_problem(BAD_BOX, str(path), error)
            continue
        except UserError as error:
            on_problem("malformed label", str(path), error)
            continue
        truth.ordinals.append(ordinal)
        truth.data["annotations"].append({"id": len(truth.ordinals), "image_id": len(truth.files), **record})


def _record(words: list[str], where: str, size: tuple[int, int], names: list[str]) -> Record:
    """Convert a line of a label file to a COCO annotation record."""
    label, values = _numbers(words, where, names)
    left, top, width, height = _corner_and_size(values)
    if min(width, height) < 0:
        raise UnusableBoxError(f"{where}: has a negative width or height; fix the box")
    fractions = zip((left, top, width, height), size * 2, strict=True)
    box = [round(fraction * side, DECIMALS) + 0.0 for fraction, side in fractions]
    assert all(map(math.isfinite, box))
    return {"category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}


def _numbers(words: list[str], where: str, names: list[str]) -> tuple[int, list[float]]:
    """Return the class number of a line, and its values as fractions of the image's sides.

    Raises:
        UserError: the line does not have a class and a box or polygon.
    """
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise UserError(
            f"{where}: has {len(words)} values; write five, namely class, centre x, centre y, width and height"
        )
    try:
        label, *values = (float(word) for word in words)
    except ValueError:
        raise UserError(f"{where}: {' '.join(words)[:60]!r} is not a list of numbers; fix the line") from None
    if label not in range(len(names)):
        raise UserError(
            f"{where}: class {words[0][:40]} is not one of the {len(names)} class numbers 0 to "
            f"{len(names) - 1}; fix the number"
        )
    given = " ".join(words[1:])[:60]
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where}: {given} has values outside 0..1; fix the values")
    if not all(-FAR <= value <= 1 + FAR for value in values):
        raise UnusableBoxError(f"{where}: {given} has values outside 0..1; divide pixels by the sides of the image")
    return int(label), values


def _corner_and_size(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Return left, top, width and height of a box given by centre and size, or of the box around a polygon's points."""
    if len(values) > 4:
        xs, ys = values[0::2], values[1::2]
        return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    x, y, width, height = values
    return x - width / 2, y - height / 2, width, height
