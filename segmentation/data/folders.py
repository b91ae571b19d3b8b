"""Label maps as files: images/SPLIT beside labels/SPLIT, or Pascal VOC's folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from backbones.common.datasets import IMAGE_SUFFIXES, leads_out
from backbones.common.images import image_size, read_image
from backbones.errors import UserError
from segmentation.data.labels import VOC_CLASSES, Classes, palette, read_labels
from segmentation.options import SegmentationDataOptions

if TYPE_CHECKING:
    import numpy as np

    from segmentation.data.dataset import LabelSource


VOC_LISTS = Path("ImageSets", "Segmentation")


class LabelFolder:
    """Pictures and the label maps (PNG) of their names.

    Args:
        pairs: image and label file of each.
        ignore_index: the label maps' number for pixels that do not count.
    """

    def __init__(self, pairs: list[tuple[Path, Path]], classes: Classes, *, ignore_index: int, where: str) -> None:
        self.where, self.ignore_index = where, ignore_index
        # Packed: a list of Python objects would be copied into each worker by its reference counts.
        self._images, self._labels = (np.array([os.fsencode(p) for p in column]) for column in zip(*pairs, strict=True))
        own = palette(self._path(self._labels, 0))[: len(classes)]
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


def is_label_folder(root: Path) -> bool:
    """Whether a data set is laid out in one of the two ways."""
    return (root / "labels").is_dir() or (root / VOC_LISTS).is_dir()


def open_folder(root: Path, split: str, *, ignore_index: int) -> LabelFolder:
    """A split of `root`: `images/SPLIT/*` and `labels/SPLIT/*.png` with `classes.txt`, or Pascal VOC's layout.

    Raises:
        UserError: where a folder, a list, the classes or a label map is missing.
    """
    pairs, classes = list_pairs(root, split), read_classes(root)
    absent = [labels for _, labels in pairs if not labels.is_file()]
    if absent:
        raise UserError(f"{absent[0]}: no such label map ({len(absent)} of {len(pairs)} images of {split} lack theirs)")
    return LabelFolder(pairs, classes, ignore_index=ignore_index, where=f"{root} ({split})")


def list_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """The images of a split, each with its label map's path, whether it is there or not.

    Raises:
        UserError: where a folder or a list is missing or empty.
    """
    if (root / "labels").is_dir():
        return _beside(image_folder(root, split), root / "labels" / split)
    return _listed(root, split)


def image_folder(root: Path, split: str) -> Path:
    """Where the images of a split lie."""
    return root / "images" / split if (root / "labels").is_dir() else root / "JPEGImages"


def read_classes(root: Path) -> Classes:
    """What `classes.txt` says; Pascal VOC's own classes where its layout has none.

    Raises:
        UserError: where it is missing or malformed.
    """
    path = root / "classes.txt"
    if (root / "labels").is_dir() or path.is_file():
        return Classes.read(path)
    return Classes.named(VOC_CLASSES)


def _beside(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; a data set has images/SPLIT and labels/SPLIT")
    found = sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found:
        raise UserError(f"{images}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return [(image, (labels / image.relative_to(images)).with_suffix(".png")) for image in found]


def _listed(root: Path, split: str) -> list[tuple[Path, Path]]:
    path = root / VOC_LISTS / f"{split}.txt"
    try:
        names = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it lists the images of {split}") from None
    if not names:
        raise UserError(f"{path}: lists no images")
    outside = next((name for name in names if leads_out(name)), None)
    if outside:
        raise UserError(f"{path}: lists {outside}, which leads out of JPEGImages; mend the list")
    return [(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png") for name in names]


def open_source(data: SegmentationDataOptions, split: Literal["train", "val"]) -> LabelSource:
    """Label maps in folders, or painted from COCO's instances; the shapes are such."""
    from backbones.common.datasets import find_split
    from segmentation.data.coco import CocoLabels

    if data.data is None:
        from tools.processes.distributed import on_main
        from tools.synthetic import shapes

        return CocoLabels(*find_split(on_main(shapes.prepare), split), chosen=data.classes)
    root = Path(data.data)
    if is_label_folder(root):
        if data.classes != "all":
            raise UserError(f"--classes {data.classes}: chooses among COCO's; {root} names its own: leave it out")
        return open_folder(root, getattr(data, f"{split}_split"), ignore_index=data.ignore_index)
    if root.is_dir() and not (root / "annotations").is_dir():
        raise UserError(
            f"--data {root}: no layout that is known: images/SPLIT, labels/SPLIT and classes.txt; Pascal VOC's "
            "ImageSets/Segmentation; or COCO's annotations/instances_SPLIT*.json"
        )
    return CocoLabels(*find_split(root, split), chosen=data.classes, allow_outside=data.allow_outside)
