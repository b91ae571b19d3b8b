"""Label maps as files: images/SPLIT beside labels/SPLIT, or Pascal VOC's folders; and the opening of any layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from backbones.common.datasets import IMAGE_SUFFIXES, find_split, leads_out
from backbones.common.images import image_size, read_image
from backbones.errors import UserError
from segmentation.data.coco import CocoLabels
from segmentation.data.dataset import LabelSource
from segmentation.data.labels import VOC_CLASSES, Classes, read_labels, read_palette
from segmentation.options import SegmentationDataOptions

VOC_LISTS = Path("ImageSets", "Segmentation")


class LabelFolder:
    """Image files with their label maps (PNG).

    Args:
        pairs: image file and label file of each image.
        classes: names by class number. If their colours are our own and the first label map is a palette image, the
            colours of its palette replace them.
        ignore_index: number in the label maps that marks pixels to ignore.
        where: name of the data for messages.
    """

    def __init__(self, pairs: list[tuple[Path, Path]], classes: Classes, *, ignore_index: int, where: str) -> None:
        self.where, self.ignore_index = where, ignore_index
        # Pack the names into arrays: reading a list of Python objects would copy its memory into each worker.
        self._images, self._labels = (np.array([os.fsencode(p) for p in column]) for column in zip(*pairs, strict=True))
        own = read_palette(self._path(self._labels, 0))[: len(classes)]
        self.classes = classes if classes.given or len(own) < len(classes) else Classes(classes.names, own)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, row: int) -> np.ndarray:
        return read_image(self.file(row), apply_exif=False)

    def size(self, row: int) -> tuple[int, int]:
        # The label map has the image's size; reading the labels checks this.
        return image_size(self._path(self._labels, row), apply_exif=False)

    def labels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        return read_labels(self._path(self._labels, row), self.classes, size=size, ignore_index=self.ignore_index)

    def file(self, row: int) -> Path:
        return self._path(self._images, row)

    def _path(self, column: np.ndarray, row: int) -> Path:
        return Path(os.fsdecode(column[row]))


def open_source(root: Path, split: Literal["train", "val"], options: SegmentationDataOptions) -> LabelSource:
    """Open a split of a data set of any layout.

    Args:
        root: folder of the data set, such as `options.data`.
        split: which split; in other layouts than COCO's its name is `options.train_split` or `options.val_split`.
        options: how to read the data; `data` itself is not used.

    Raises:
        UserError: the layout is unknown, a file is missing or malformed, or an option does not fit the layout.
    """
    if is_label_folder(root):
        if options.classes != "all":
            raise UserError(
                f"--classes {options.classes}: is for COCO's categories, but {root} has its own classes; leave it out"
            )
        name = options.train_split if split == "train" else options.val_split
        return open_folder(root, name, ignore_index=options.ignore_index)
    if root.is_dir() and not (root / "annotations").is_dir():
        raise UserError(
            f"--data {root}: its layout is unknown; expected images/SPLIT, labels/SPLIT and classes.txt; or Pascal "
            "VOC's ImageSets/Segmentation; or COCO's annotations/instances_SPLIT*.json"
        )
    return CocoLabels(*find_split(root, split), chosen=options.classes, allow_outside=options.allow_outside)


def is_label_folder(root: Path) -> bool:
    """Return whether a data set has label maps as files: images/SPLIT beside labels/SPLIT, or Pascal VOC's layout."""
    return (root / "labels").is_dir() or (root / VOC_LISTS).is_dir()


def open_folder(root: Path, split: str, *, ignore_index: int) -> LabelFolder:
    """Open `images/SPLIT/*` and `labels/SPLIT/*.png` with `classes.txt`, or a split in Pascal VOC's layout.

    Args:
        root: folder of the data set.
        split: name of the split.
        ignore_index: number in the label maps that marks pixels to ignore.

    Raises:
        UserError: a folder, a list, the classes or a label map is missing.
    """
    pairs, classes = list_pairs(root, split), read_classes(root)
    absent = [labels for _, labels in pairs if not labels.is_file()]
    if absent:
        raise UserError(
            f"{absent[0]}: no such label map ({len(absent)} of {len(pairs)} images of {split} have none); add it, or "
            "remove the image"
        )
    return LabelFolder(pairs, classes, ignore_index=ignore_index, where=f"{root} ({split})")


def list_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the image files of a split, each with the path of its label map, which may not exist.

    Raises:
        UserError: a folder or a list is missing or empty.
    """
    if (root / "labels").is_dir():
        return _pairs_of_folders(image_folder(root, split), root / "labels" / split)
    return _pairs_of_list(root, split)


def image_folder(root: Path, split: str) -> Path:
    """Return the folder of a split's images."""
    return root / "images" / split if (root / "labels").is_dir() else root / "JPEGImages"


def read_classes(root: Path) -> Classes:
    """Return the classes of `classes.txt`, or Pascal VOC's own if its layout has no such file.

    Raises:
        UserError: the file is missing or malformed.
    """
    path = root / "classes.txt"
    if (root / "labels").is_dir() or path.is_file():
        return Classes.read(path)
    return Classes.named(VOC_CLASSES)


def _pairs_of_folders(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; a data set has images/SPLIT and labels/SPLIT")
    found = sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found:
        raise UserError(f"{images}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return [(image, (labels / image.relative_to(images)).with_suffix(".png")) for image in found]


def _pairs_of_list(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the pairs that Pascal VOC's list of a split names."""
    path = root / VOC_LISTS / f"{split}.txt"
    try:
        names = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it must list the images of {split}") from None
    if not names:
        raise UserError(f"{path}: lists no images; add their names")
    outside = next((name for name in names if leads_out(name)), None)
    if outside:
        raise UserError(f"{path}: lists {outside}, which leads out of JPEGImages; fix the list")
    return [(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png") for name in names]
