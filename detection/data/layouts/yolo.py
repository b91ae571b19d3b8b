"""Reads YOLO's layout: `images/SPLIT/NAME.jpg`, and `labels/SPLIT/NAME.txt` with one box per line.

hotcoco reads and writes single folders of labels too, but drops the suffixes of image files and rounds to six digits.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

from backbones.common.datasets import Record
from backbones.common.images import image_size
from backbones.common.listing import subfolders, visible
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Layout, Reading, Sign
from detection.data.layouts.collector import outline_area
from detection.data.layouts.images import UNSPLIT, first_of
from detection.data.layouts.yolo_places import LabelledImages, label_folder, pairs_of_folder, pairs_of_list, united
from detection.data.layouts.yolo_yaml import SPLITS, DataYaml, is_data_yaml
from detection.data.truth import (
    ProblemHandler,
    Truth,
    read_names,
    read_text,
    unknown_size,
)

CLASS_FILES = ("classes.txt", "obj.names", "classes.names")
BEYOND = 0.01  # fraction of a side by which a value may lie outside 0..1; Ultralytics' tolerance
FAR = 1.0  # fraction of a side; a value that lies farther outside 0..1 is no fraction, but a number of pixels
BAD_BOX = "unusable box"  # kind of the problem
POSES = "poses read as boxes, without their points"
SIXTH = "sixth values of lines (confidences of predictions or numbers of tracks), which are not read"
DECIMALS = 9  # of a pixel: a whole number of pixels stays whole after division by a side and multiplication


class UnusableBoxError(UserError):
    """Error about a line whose box cannot be used in training. `--bad-boxes drop` leaves the box out."""


@LAYOUTS.register("yolo")
class YoloLayout(Layout):
    """YOLO's layout. In the similar layout of segmentation data, the labels are images.

    A split is what the YAML file says, or else a folder `images/SPLIT` or `SPLIT/images`, or else the folder `images`.
    The data set may also be named by its YAML file.
    """

    name = "yolo"
    form = "YOLO's images/SPLIT, labels/SPLIT and data.yaml or classes.txt"

    def signs(self, root: Path) -> Iterator[Sign]:
        description = DataYaml.of(root)
        listed = bool(_class_lists(root)) or (description is not None and is_data_yaml(description.path))
        yield "data.yaml or classes.txt", listed
        yield "labels as *.txt in a folder labels", _has_labels(root, description)

    def splits(self, root: Path) -> list[str]:
        """Return the splits that the YAML file names, and those that have folders of their own."""
        description = DataYaml.of(root)
        named = {} if description is None else {name: description.existing(name) for name in description.splits}
        taken = {place for places in named.values() for place in places}
        own_folders = _folders(home_of(root)).items()
        folders = {name: folder for name, folder in own_folders if not any(p.is_relative_to(folder) for p in taken)}
        own = {name for name, folder in folders.items() if name not in named}
        if not named and not own and (home_of(root) / "images").is_dir():
            return [UNSPLIT]
        return sorted({*named, *own})

    def has_split(self, root: Path, name: str) -> bool:
        return name in self.splits(root) or name in _folders(home_of(root))

    def read(self, root: Path, split: str, how: Reading) -> Truth:
        description, home = DataYaml.of(root), home_of(root)
        keypoints = description.keypoints() if description is not None else 0
        return read_yolo("yolo", _places(home, description, split, how), read_classes(root), how, keypoints=keypoints)


def home_of(root: Path) -> Path:
    """Return the folder of a data set that is named by its folder or by its YAML file."""
    return root if root.is_dir() else root.parent


def _class_lists(root: Path) -> list[Path]:
    """Return the lists of class names: that of the data set, or else those that labelImg writes among the labels."""
    home = home_of(root)
    own = [path for name in CLASS_FILES if (path := home / name).is_file()]
    labels = [home / "labels", *subfolders(home / "labels"), *(folder / "labels" for folder in subfolders(home))]
    return own or [path for folder in labels if (path := folder / CLASS_FILES[0]).is_file()]


def _has_labels(root: Path, description: DataYaml | None) -> bool:
    """Return whether a data set has label files as text."""
    home = home_of(root)
    folders = [folder for folder in (home / "labels", *visible(home, "*/labels")) if folder.is_dir()]
    if any(next(visible(folder, "**/*.txt"), None) for folder in folders):
        return True
    with contextlib.suppress(UserError):
        places = [place for name in SPLITS if description is not None for place in description.existing(name)]
        return any(
            place.is_file() or next(visible(label_folder(place), "**/*.txt"), None) or first_of(place, [".txt"])
            for place in places
        )
    return root.is_file()  # so that reading names the fault of the YAML file


def _folders(home: Path) -> dict[str, Path]:
    """Return the image folders `images/SPLIT` and `SPLIT/images` by split."""
    found = {folder.parent.name: folder for folder in visible(home, "*/images/")}
    return {**found, **{folder.name: folder for folder in subfolders(home / "images")}}


def _places(home: Path, description: DataYaml | None, split: str, how: Reading) -> LabelledImages:
    """Return images and label files of a split.

    Raises:
        UserError: there is no such split.
    """
    named = description.require(split) if description is not None else []
    if named:
        parts = [pairs_of_folder(p, how) if p.is_dir() else pairs_of_list(p, home, how) for p in named]
        whole = united(parts)
        whole.notes.update(description.notes.keys() if description is not None else ())
        return whole
    folders = _folders(home)
    if split in folders:
        return pairs_of_folder(folders[split], how, labels=label_folder(folders[split]))
    if split == UNSPLIT and not folders and (home / "images").is_dir():
        return pairs_of_folder(home / "images", how)
    parent = home / "images" if (home / "images").is_dir() else home
    there = ", ".join(sorted(folders) or [folder.name for folder in subfolders(parent)]) or "none"
    raise UserError(
        f"{home / 'images' / split}: no such folder of images; name one of the folders in {parent} ({there})"
    )


def read_yolo(layout: str, places: LabelledImages, names: list[str], how: Reading, *, keypoints: int = 0) -> Truth:
    """Read the images of a split with their boxes. An image without a label file has no box.

    A polygon becomes a mask with the box around it. Sizes are those of the image files after EXIF rotation. Boxes far
    outside their image are left out and counted if `how` says so.

    Args:
        layout: name of the layout.
        names: class names.
        keypoints: number of values after the box on lines of poses.

    Raises:
        UserError: a file cannot be read, or `how.on_problem` raises the error of a record.
    """
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    data: Record = {"images": [], "annotations": [], "categories": categories}
    truth = Truth(layout, places.labels, places.folder, data, passed_over=places.passed_over, notes=places.notes)
    # Read the headers of the image files in parallel.
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(lambda name: _size(places.folder / name, how.absent_images), places.files))
    for (name, path), size in zip(places.files.items(), sizes, strict=True):
        if isinstance(size, UserError):
            how.on_problem("undecodable file", str(places.folder / name), size)
            continue
        height, width = size
        truth.files.append(str(path))
        record = {"id": len(truth.files), "file_name": name, "width": width, "height": height}
        truth.data["images"].append(record)
        _add_boxes(path, (width, height), names, keypoints, truth, _dropping(truth, how))
    return truth


def _dropping(truth: Truth, how: Reading) -> ProblemHandler:
    """Return a handler of problems that counts boxes far outside their image if they are to be left out."""

    def handle(kind: str, file: str, error: UserError) -> None:
        if kind == BAD_BOX and how.bad_boxes == "drop":
            truth.notes["boxes far outside their image dropped"] += 1
        else:
            how.on_problem(kind, file, error)

    return handle


def read_classes(root: Path) -> list[str]:
    """Read the class names from the YAML file or `classes.txt`, in the order of their numbers.

    Raises:
        UserError: neither file exists, one is malformed, or they differ.
    """
    description, own = DataYaml.of(root), home_of(root) / CLASS_FILES[0]
    texts = [path for path in _class_lists(root) if description is None or path == own]
    found = {} if description is None else {description.path: description.names()}
    found |= {path: read_names(path) for path in texts}
    if not found:
        raise UserError(
            f"{root}: has neither data.yaml nor classes.txt; add one of them, with the names of the classes"
        )
    first, *others = found
    for path in others:
        if found[path] != found[first]:
            raise UserError(f"{path}: lists other classes than {first}; fix or remove one of the two files")
    return found[first]


def _without_extras(words: list[str], keypoints: int, truth: Truth) -> list[str]:
    """Remove keypoints, a confidence or the number of a track from a line, and count it; return others unchanged."""
    if keypoints and len(words) in (5 + keypoints, 6 + keypoints):
        truth.notes[POSES] += 1
        words = words[:5] + words[5 + keypoints :]
    if len(words) == 6 and (_is_fraction(words[5]) or words[5].isdecimal()):
        truth.notes[SIXTH] += 1
        return words[:5]
    return words


def _is_fraction(word: str) -> bool:
    try:
        return 0 <= float(word) <= 1
    except ValueError:
        return False


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
            words = _without_extras(line.split(), keypoints, truth)
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
    record = {"category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
    if len(values) > 4:
        polygon = [round(value * side, DECIMALS) + 0.0 for value, side in zip(values, cycle(size), strict=False)]
        record |= {"segmentation": [polygon], "area": outline_area([polygon])}
    return record


def _numbers(words: list[str], where: str, names: list[str]) -> tuple[int, list[float]]:
    """Return the class number of a line, and its values as fractions of the image's sides.

    Raises:
        UserError: the line does not have a class and a box or polygon.
    """
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        hint = ""
        if len(words) == 6:
            hint = " (a sixth value must be a confidence from 0 to 1 or the whole number of a track)"
        elif len(words) > 7:
            hint = ", or a class and pairs x y of a polygon without a confidence"
        raise UserError(
            f"{where}: has {len(words)} values; write five, namely class, centre x, centre y, width and height{hint}"
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
