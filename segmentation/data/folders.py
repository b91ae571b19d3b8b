"""Opens segmentation data in any layout: label maps in files, or outlines that are painted while they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from backbones.common.bits import WHOLE_BITS, require_bits
from backbones.common.datasets import existing_split, find_split, instances_files
from backbones.common.decoding import channels_of, decode, is_bands
from backbones.common.images import read_file, read_image
from backbones.common.listing import inner_folder, subfolders, visible
from backbones.errors import UserError, require
from segmentation.data.chosen import ChosenLabels
from segmentation.data.classes import Classes
from segmentation.data.coco import CocoLabels
from segmentation.data.dataset import LabelSource
from segmentation.data.label_studio import exports_of, is_label_studio, read_label_studio
from segmentation.data.label_studio_png import is_label_studio_png, read_label_studio_png
from segmentation.data.labelme import is_labelme, read_labelme
from segmentation.data.labels import LabelCode, label_size, read_labels
from segmentation.data.layout import LabelLayout, is_label_folder, label_layout_name, label_splits, what_lies_in
from segmentation.data.nearest import describe_nearest
from segmentation.data.painted import PaintedLabels
from segmentation.data.undivided import ALL
from segmentation.options import SegmentationDataOptions


class PaintedReader(Protocol):
    """Interface of a function that opens a split of outlines, with the bits that 16-bit images use."""

    def __call__(self, root: Path, split: str, *, bits: int | None) -> PaintedLabels: ...


class LabelFolder:
    """Images and label maps of a split that are stored as files.

    Args:
        pairs: image file and label file of each image.
        code: meaning of the pixels of the label maps. If the data set does not define colours but has palette images,
            the classes get the colours of the palette.
        where: name of the data for messages.
        bits: bits that the values of 16-bit images use.
        passed_over: number of the files by suffix that are not read.
        in_channels: number of channels that every image must have.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        code: LabelCode,
        *,
        where: str,
        bits: int = 16,
        passed_over: Mapping[str, int] | None = None,
        in_channels: int = 3,
    ) -> None:
        self.in_channels = in_channels
        self.where, self.code, self.bits, self.passed_over = where, code, bits, passed_over or {}
        self.notes: Mapping[str, int] = {}
        # Pack the names into arrays: reading a list of Python objects would copy its memory into each worker.
        self._images, self._labels = (np.array([os.fsencode(p) for p in column]) for column in zip(*pairs, strict=True))
        classes, own = code.classes, code.palette[: len(code.classes)]
        self.classes = classes if classes.given or len(own) < len(classes) else Classes(classes.names, own)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, row: int) -> np.ndarray:
        path = self.file(row)
        if self.in_channels != 3 or is_bands(path.name, self.in_channels):
            return decode(read_file(path), str(path), self.in_channels, self.bits)
        return read_fitting(path, self.size(row), bits=self.bits)

    def size(self, row: int) -> tuple[int, int]:
        # The label map has the image's size; reading the labels checks this.
        return label_size(self._path(self._labels, row))

    def labels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        return read_labels(self._path(self._labels, row), self.code, size=size)

    def file(self, row: int) -> Path:
        return self._path(self._images, row)

    def _path(self, column: np.ndarray, row: int) -> Path:
        return Path(os.fsdecode(column[row]))


def read_fitting(path: Path, size: tuple[int, int], *, bits: int = 16) -> np.ndarray:
    """Decode an image `[H, W, 3]`. Rotate it by its EXIF orientation only if it otherwise does not have the given size.

    Args:
        size: height and width of the label map.

    Raises:
        UserError: the file is missing or does not decode.
    """
    stored = read_image(path, apply_exif=False, bits=bits)
    if stored.shape[:2] == size:
        return stored
    turned = read_image(path, bits=bits)
    return turned if turned.shape[:2] == size else stored


def open_source(root: Path, split: Literal["train", "val"], options: SegmentationDataOptions) -> LabelSource:
    """Open a split of a segmentation data set in any layout.

    Args:
        root: folder of the data set, such as `options.data`.
        split: which split; its name is `options.train_split` or `options.val_split`.
        options: how to read the data; `data` itself is not used.

    Raises:
        UserError: the layout is unknown, a file is missing or malformed, or an option does not fit the layout.
    """
    source = _open(home_of(root), options.train_split if split == "train" else options.val_split, options)
    categories = options.categories()
    return ChosenLabels.of(source, categories) if categories.changes_classes else source


def _open(root: Path, name: str, options: SegmentationDataOptions) -> LabelSource:
    """Open a split with the classes of the data."""
    other = _open_listed_classes(root, name, options)
    if other is not None:
        if options.classes == "voc":
            raise UserError(
                f"--classes {options.classes}: works only for data in COCO's layout, but {root} has its "
                "own list of classes; leave --classes out"
            )
        return other
    if root.is_dir() and not (root / "annotations").is_dir():
        raise UserError(
            f"--data {root}: unknown layout (the folder holds {what_lies_in(root)}); use one of the layouts in "
            f"docs/DATA.md; the nearest are {describe_nearest(root)}"
        )
    found = CocoLabels(
        *find_split(root, name),
        chosen="voc" if options.classes == "voc" else "all",
        allow_outside=options.allow_outside,
        bits=options.bits or WHOLE_BITS,
    )
    require_bits([found.file(row) for row in range(len(found))], options.bits)
    return found


def _open_listed_classes(root: Path, name: str, options: SegmentationDataOptions) -> LabelSource | None:
    """Open a split in any layout except COCO's; None if the folder has none of these layouts."""
    read = painted_reader(root)
    if read is None and is_label_folder(root):
        channels = options.in_channels
        return open_folder(root, name, ignore_index=options.ignore_index, bits=options.bits, in_channels=channels)
    require(options.in_channels in (None, 3), "in_channels", options.in_channels, "needs label maps in files")
    return None if read is None else read(root, name, bits=options.bits)


def painted_reader(root: Path) -> PaintedReader | None:
    """Return the function that opens a folder of outlines or strokes of LabelMe or Label Studio; None for others."""
    if not root.is_dir():
        return None
    if is_label_studio_png(root):
        return read_label_studio_png
    if is_label_folder(root):
        return None
    if is_label_studio(root):
        return read_label_studio
    return read_labelme if not (root / "annotations").is_dir() and is_labelme(root) else None


def layout_name(root: Path) -> str:
    """Return the name of the layout of a folder; coco if it is none of the others."""
    if (read := painted_reader(root)) is not None:
        names = {read_labelme: "labelme", read_label_studio: "label-studio", read_label_studio_png: "label-studio-png"}
        return names[read]
    return label_layout_name(root) if is_label_folder(root) else "coco"


def split_names(root: Path) -> list[str]:
    """Return the names of the splits of a data set, sorted; [] if it is not divided."""
    root = home_of(root)
    read = painted_reader(root)
    if read is read_labelme:
        return [each.name for each in subfolders(root) if any(visible(each, "*.json"))]
    if read is not None:
        is_divided = read is read_label_studio and not exports_of(root)
        return sorted(file.stem for file in visible(root, "*.json")) if is_divided else []
    if is_label_folder(root):
        return label_splits(root)
    return sorted(path.stem.removeprefix("instances_") for path in instances_files(root))


def has_layout(root: Path) -> bool:
    """Return whether a folder exists and has one of the layouts, or the only folder in it has."""
    return _has_layout(home_of(root))


def home_of(root: Path) -> Path:
    """Return the folder of the data set that `root` names: itself, or the only folder in it; see `inner_folder`."""
    return inner_folder(root, _has_layout)


def _has_layout(root: Path) -> bool:
    coco = (root / "annotations").is_dir()
    files = is_label_folder(root) or is_label_studio_png(root)
    return files or coco or (root.is_dir() and (is_label_studio(root) or is_labelme(root)))


def has_split(root: Path, name: str) -> bool:
    """Return whether a data set in any layout has a split, under this or another usual name.

    A data set that is not divided has the split "train". A folder that does not exist, and one of an unknown layout,
    have all splits here: opening them tells what is wrong.
    """
    root = home_of(root)
    undivided = name in (ALL, "train")
    if is_label_studio_png(root):
        return undivided
    if is_label_folder(root):
        try:
            LabelLayout.of(root, name)
        except UserError:
            return False
        return True
    if root.is_dir() and is_label_studio(root):
        exports = {file.stem for file in visible(root, "*.json")}
        return undivided or existing_split(name, exports.__contains__) in exports
    if (root / "annotations").is_dir():
        return bool(instances_files(root, existing_split(name, lambda each: bool(instances_files(root, each)))))
    if root.is_dir() and is_labelme(root):
        return undivided or (root / existing_split(name, lambda each: (root / each).is_dir())).is_dir()
    return True


def open_folder(
    root: Path, split: str, *, ignore_index: int, bits: int | None = None, in_channels: int | None = None
) -> LabelFolder:
    """Open a split whose label maps are stored as files.

    Args:
        root: folder of the data set.
        split: name of the split.
        ignore_index: number in the label maps that marks pixels to ignore.
        bits: bits that the values of 16-bit images use; None if the user named none.
        in_channels: number of channels that every image must have; None for that of the first file.

    Raises:
        UserError: a folder, a list, the classes or a label map is missing.
    """
    layout = LabelLayout.of(root, split)
    found, classes = layout.pairs(), layout.classes()
    absent = [image for image, labels in found if labels is None]
    if absent:
        raise UserError(
            f"{absent[0]}: has no label map ({len(absent)} of {len(found)} images of {layout.split} have "
            f"none, and {layout.labels} holds {what_lies_in(layout.labels)}); add the label map, or "
            "remove the image"
        )
    code = LabelCode.of(layout.all_label_maps(), classes, ignore_index=ignore_index)
    pairs = [(image, labels) for image, labels in found if labels is not None]
    channels = in_channels or channels_of(pairs[0][0])
    if channels in (1, 3):
        require_bits([image for image, _ in pairs], bits)
    where, others = f"{root} ({layout.split})", layout.passed_over()
    return LabelFolder(pairs, code, where=where, bits=bits or WHOLE_BITS, passed_over=others, in_channels=channels)
