"""Writes label maps as files: in folders, beside their images, and as Pascal VOC and CVAT store them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.common.colours import Colour
from backbones.common.files import link_file
from backbones.errors import UserError
from segmentation.data.classes import IGNORE, Classes
from segmentation.data.layout import ENDING, VOC_LISTS
from segmentation.data.writing import Lost, Writing

VOID: Colour = (224, 224, 192)  # VOC's colour of pixels that do not count


def write_folders(data: Writing) -> Lost:
    """Write `images/SPLIT`, `labels/SPLIT` and `classes.txt`."""
    for image in data.images():
        link_file(image.file, data.folder / "images" / data.split / image.name)
        _save(data.folder / "labels" / data.split / f"{image.stem}.png", image.labels(), data.classes)
    _list_classes(data, data.folder / "classes.txt")
    return set()


def write_beside(data: Writing) -> Lost:
    """Write `SPLIT/NAME.jpg` and `SPLIT/NAME_mask.png`, and `classes.txt`."""
    for image in data.images():
        if ENDING.search(image.stem):
            raise UserError(
                f"{image.file}: its name ends as that of a label map, which the new layout cannot tell; rename it"
            )
        link_file(image.file, data.folder / data.split / image.name)
        _save(data.folder / data.split / f"{image.stem}_mask.png", image.labels(), data.classes)
    _list_classes(data, data.folder / "classes.txt")
    return set()


def write_voc(data: Writing) -> Lost:
    """Write Pascal VOC's lists, `JPEGImages` and `SegmentationClass`, and `classes.txt`."""
    for image in data.images():
        link_file(image.file, data.folder / "JPEGImages" / image.name)
        _save(data.folder / "SegmentationClass" / f"{image.stem}.png", image.labels(), data.classes)
    _list_images(data)
    _list_classes(data, data.folder / "classes.txt")
    return set()


def write_cvat(data: Writing) -> Lost:
    """Write CVAT's "Segmentation mask": Pascal VOC's folders, label maps in colours, and `labelmap.txt`."""
    colours, void = data.classes.colours, _void(data.classes)
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(colours)], table[IGNORE] = colours, void
    for image in data.images():
        link_file(image.file, data.folder / "JPEGImages" / image.name)
        path = data.folder / "SegmentationClass" / f"{image.stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(table[image.labels()]).save(path)
    _list_images(data)
    rows = [*zip(data.classes.names, colours, strict=True), ("void", void)]
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in rows]
    _write_list(data, data.folder / "labelmap.txt", ["# label:color_rgb:parts:actions", *lines])
    return set()


def _save(path: Path, labels: np.ndarray, classes: Classes) -> None:
    """Save a label map `[H, W]` as a palette image of class numbers with the colours of the classes."""
    colours = np.full((IGNORE + 1, 3), 0, np.uint8)
    colours[: len(classes)], colours[IGNORE] = classes.colours, _void(classes)
    image = Image.fromarray(labels).convert("P") if labels.dtype != np.uint8 else Image.fromarray(labels, "P")
    image.putpalette(colours.ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _void(classes: Classes) -> Colour:
    """Return the colour of ignored pixels, which no class has."""
    free = (VOID, *((grey, grey, grey) for grey in range(255, 0, -1)))
    return classes.void or next(colour for colour in free if colour not in classes.colours)


def _list_images(data: Writing) -> None:
    path = data.folder / VOC_LISTS / f"{data.split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image.stem}\n" for image in data.images()), encoding="utf-8")


def _list_classes(data: Writing, path: Path) -> None:
    """Write a list of classes, with their colours if the data set gives them."""
    classes = data.classes
    rows = [*zip(classes.names, classes.colours, strict=True), *([("void", classes.void)] if classes.void else [])]
    lines = [f"{name} {' '.join(map(str, colour))}" for name, colour in rows]
    _write_list(data, path, lines if classes.given else list(classes.names))


def _write_list(data: Writing, path: Path, lines: Sequence[str]) -> None:
    """Write a list of classes and read it again.

    Raises:
        UserError: a name cannot stand in such a list.
    """
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    try:
        found = Classes.read(path).names
    except UserError:
        found = ()
    if found != data.classes.names:
        names = ", ".join(sorted(set(data.classes.names).difference(found))[:5]) or "void"
        raise UserError(
            f"{data.where}: the name of a class ({names}) cannot be written into {path.name}; change it with --rename"
        )
