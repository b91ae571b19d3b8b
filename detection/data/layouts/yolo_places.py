"""Finds the images and label files of a split in YOLO's layouts."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from backbones.common.listing import is_file, visible
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.common.values import is_file_name
from backbones.errors import UserError
from detection.data.layouts.base import Reading
from detection.data.truth import FolderImages, read_text

LISTS = ("classes", "obj", "train", "valid", "val", "test", "_darknet")  # *.txt and others beside labels
NO_LABELS = "text files that are no label files, such as README.txt, which are left out"
LONGEST = 250  # bytes of a file's name


@dataclass
class LabelledImages:
    """The images of a split with their label files.

    Attributes:
        folder: folder of the images.
        labels: folder or list to name in messages.
        files: label file of each image, by the name of the image below `folder`. A label file need not exist.
        passed_over: number of other files in the image folders by suffix.
        notes: number of cases in which something was left out or replaced, by description.
    """

    folder: Path
    labels: Path
    files: dict[str, Path]
    passed_over: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


def label_folder(images: Path) -> Path:
    """Return the folder of labels of an image folder: the same path with `labels` for the last `images` in it."""
    parts = list(images.parts)
    places = [place for place, part in enumerate(parts) if part == "images"]
    if not places:
        return images
    parts[places[-1]] = "labels"
    return Path(*parts)


def pairs_of_folder(images: Path, how: Reading, *, labels: Path | None = None) -> LabelledImages:
    """Return the images in a folder and its subfolders, with their label files.

    Args:
        labels: folder of the label files; absent: the one beside `images`.

    Raises:
        UserError: there are no images, or no folder of labels.
    """
    labels = labels or label_folder(images)
    if not labels.is_dir() and any(visible(images, "*.txt")):
        labels = images
    if not labels.is_dir():
        raise UserError(
            f"{labels}: no such folder, but the images in {images} need it for their labels; create it, or "
            "name another split"
        )
    found = FolderImages.of(images)
    there = {path.relative_to(labels).with_suffix("").as_posix(): path for path in visible(labels, "**/*.txt")}
    lists = LISTS if labels == images else ("classes",)  # labelImg writes its classes.txt among the labels
    for name in [name for name in there if name.rpartition("/")[2] in lists and name not in found.by_stem]:
        del there[name]
    files: dict[str, Path] = {}
    for stem, names in found.by_stem.items():
        if len(names) > 1:
            text = f"{images / names[0]}: {names[1]} has the same name except for the suffix, so that both have the "
            text += "same label file; rename one"
            how.on_problem("duplicate file name", str(images / names[0]), UserError(text))
        files[names[0]] = there.get(stem, labels / f"{stem}.txt")
    notes = Counter[str]()
    for stem in sorted(there.keys() - found.by_stem.keys()):
        if not _may_hold_boxes(there[stem]):
            notes[NO_LABELS] += 1
        elif how.absent_images == "error":
            text = f"{there[stem]}: there is no image of this name in {images}; add it, or pass --on-bad-image skip"
            how.on_problem("missing file", str(there[stem]), UserError(text))
        else:
            files[f"{stem}.jpg"] = there[stem]
    if not files:
        raise UserError(f"{images}: holds no images; add some, or name another split")
    return LabelledImages(images, labels, dict(sorted(files.items())), Counter(found.passed_over), notes)


def pairs_of_list(path: Path, home: Path, how: Reading) -> LabelledImages:
    """Return the images that a list such as `train.txt` names, one on each line, with their label files.

    Args:
        home: folder of the data set, below which the images are sought; `path` lies in it or above it.

    Raises:
        UserError: the list cannot be read or names no image, or `how.on_problem` raises the error of a line.
    """
    files: dict[Path, Path] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        image = _listed_image(line.strip(), path.parent, home)
        name = line.strip().replace("\\", "/").rpartition("/")[2]
        if image is None and (how.absent_images == "error" or not _is_image_name(name)):
            text = f"{path}: line {number}: there is no image {line.strip()[:200]}; fix the list, or pass "
            how.on_problem("missing file", str(path), UserError(f"{text}--on-bad-image skip"))
            continue
        image = image or home / name
        if image in files:
            how.on_problem(
                "malformed list", str(path), UserError(f"{path}: line {number}: {image} is a duplicate; remove it")
            )
        beside = image.with_suffix(".txt")
        files[image] = beside if is_file(beside) else label_folder(image.parent) / beside.name
    if not files:
        raise UserError(f"{path}: lists no image that exists; name another list")
    folder = Path(os.path.commonpath([image.parent for image in files]))
    return LabelledImages(folder, path, {i.relative_to(folder).as_posix(): label for i, label in files.items()})


def united(parts: list[LabelledImages]) -> LabelledImages:
    """Return the images of several folders or lists as one."""
    if len(parts) == 1:
        return parts[0]
    folder = Path(os.path.commonpath([part.folder for part in parts]))
    files = {(p.folder / name).relative_to(folder).as_posix(): label for p in parts for name, label in p.files.items()}
    whole = LabelledImages(folder, parts[0].labels, files)
    for part in parts:
        whole.passed_over += part.passed_over
        whole.notes += part.notes
    return whole


def _listed_image(line: str, *folders: Path) -> Path | None:
    """Return the image file that a line names: a path from one of the folders, or the longest end of it that exists."""
    if "\0" in line:
        return None
    parts = [part for part in line.replace("\\", "/").split("/") if part not in ("", ".")]
    candidates = [Path(line)] if os.path.isabs(line) else []
    inside = [parts[start:] for start in range(len(parts)) if os.pardir not in parts[start:]]
    candidates += [folder.joinpath(*end) for end in inside for folder in dict.fromkeys(folders)]
    return next((path for path in candidates if path.suffix.lower() in IMAGE_SUFFIXES and is_file(path)), None)


def _is_image_name(name: str) -> bool:
    return is_file_name(name) and len(name) < LONGEST and name.lower().endswith(IMAGE_SUFFIXES)


def _may_hold_boxes(path: Path) -> bool:
    """Return whether a text file without an image may be a label file: it is empty, or has a line of numbers.

    Other texts are notes, such as README.txt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return True
    return not any(map(str.strip, lines)) or any(map(_is_numbers, lines))


def _is_numbers(line: str) -> bool:
    try:
        return len([float(word) for word in line.split()]) > 1
    except ValueError:
        return False
