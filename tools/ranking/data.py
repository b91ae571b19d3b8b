"""Opens the training images of a data set of any task for a ranking: class folders, boxes or label maps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from backbones.common.datasets import spread
from backbones.common.decoding import decode
from backbones.common.images import read_image
from backbones.errors import UserError
from classification.data.folders import ClassFolder
from classification.data.layouts import read_split
from detection.data.annotations import CocoAnnotations
from detection.data.folders import layout_of, read_annotations
from detection.options import DetectionDataOptions
from segmentation.data.dataset import LabelSource
from segmentation.data.folders import open_source
from segmentation.data.layout import is_label_folder
from segmentation.options import SegmentationDataOptions

Task = Literal["classification", "detection", "segmentation"]


@dataclass(frozen=True)
class Labelled:
    """An image with what its task labels: a class, boxes, or pixels.

    Attributes:
        pixels: `[H, W, 3]` uint8 RGB.
        label: class number of the image.
        boxes: `[K, 4]` xyxy in pixels, with `box_labels` `[K]` from 1.
        crowd: `[C, 4]` boxes of regions where no background is sampled.
        classes: class number of each pixel `[H, W]`; 255 does not count.
    """

    pixels: np.ndarray
    label: int = 0
    boxes: np.ndarray | None = None
    box_labels: np.ndarray | None = None
    crowd: np.ndarray | None = None
    classes: np.ndarray | None = None


class RankingData(Protocol):
    """Labelled training images of one task.

    Attributes:
        task: the task that the data are labelled for.
        names: file names of the chosen images.
        classes: class names by number in `Labelled`.
    """

    task: Task
    names: list[str]
    classes: tuple[str, ...]

    def read(self, index: int) -> Labelled:
        """Read one of the chosen images."""


class ClassImages:
    """Images with one class each."""

    task: Task = "classification"

    def __init__(self, root: Path, count: int) -> None:
        self.files = ClassFolder(read_split(root, "train"), None, in_channels=3)
        if self.files.labels.ndim > 1:
            raise UserError(f"--data {root}: has several labels for an image, which a ranking does not score; name "
                            "data with one class for each image")  # fmt: skip
        self.rows = spread(len(self.files), count)
        self.names = [str(self.files.path(row)) for row in self.rows]
        self.classes = self.files.classes

    def read(self, index: int) -> Labelled:
        path = self.files.path(self.rows[index])
        return Labelled(decode(path.read_bytes(), str(path), 3), label=int(self.files.labels[self.rows[index]]))


class BoxImages:
    """Images with boxes."""

    task: Task = "detection"

    def __init__(self, root: Path, count: int) -> None:
        self.annotations: CocoAnnotations = read_annotations(DetectionDataOptions(data=str(root)), "train")
        self.rows = spread(len(self.annotations), count)
        self.names = [str(self.annotations.file_names[row]) for row in self.rows]
        self.classes = ("background", *self.annotations.categories.names)

    def read(self, index: int) -> Labelled:
        data, row = self.annotations, self.rows[index]
        pixels = read_image(data.folder / str(data.file_names[row]), size=tuple(data.sizes[row].tolist()))
        boxes, labels, crowd = data.of_image(row)
        return Labelled(pixels, boxes=boxes[~crowd], box_labels=labels[~crowd], crowd=boxes[crowd])


class LabelImages:
    """Images with label maps."""

    task: Task = "segmentation"

    def __init__(self, root: Path, count: int, ignore_index: int) -> None:
        options = SegmentationDataOptions(data=str(root), ignore_index=ignore_index)
        self.source: LabelSource = open_source(root, "train", options)
        self.rows = spread(len(self.source), count)
        self.names = [str(self.source.file(row)) for row in self.rows]
        self.classes = self.source.classes.names

    def read(self, index: int) -> Labelled:
        pixels = self.source.image(self.rows[index])
        height, width = pixels.shape[:2]
        return Labelled(pixels, classes=self.source.labels(self.rows[index], (height, width)))


def open_data(root: Path, count: int, task: Task | None = None, *, ignore_index: int = 255) -> RankingData:
    """Open at most `count` training images, spread evenly over the data set.

    Args:
        root: folder of the data set, or a file that names its images, such as a CSV file or YOLO's data.yaml.
        task: task of the data; None to recognise it as the checks do: label maps, then boxes, then class folders. A
            folder with both label maps and boxes needs the task.
        ignore_index: number in label maps of pixels that do not count.

    Raises:
        UserError: the data do not exist, their layout is unknown, or a file is malformed.
    """
    if not root.exists():
        raise UserError(f"--data {root}: no such folder or file; check the path")
    has_boxes, has_labels = layout_of(root) is not None, is_label_folder(root)
    if task is None and has_boxes and has_labels:
        raise UserError(f"--data {root}: has boxes and label maps; choose with --task detection or --task segmentation")
    if task == "segmentation" or (task is None and has_labels):
        return LabelImages(root, count, ignore_index)
    if task == "detection" or (task is None and has_boxes):
        return BoxImages(root, count)
    return ClassImages(root, count)


def fingerprint(data: RankingData) -> str:
    """Return a hash of the task, and of the names, pixels and labels of the chosen images."""
    digest = hashlib.sha256("\0".join([data.task, *data.names]).encode(errors="replace"))
    for index in range(len(data.names)):
        image = data.read(index)
        digest.update(str(image.label).encode())
        for part in (image.pixels, image.boxes, image.box_labels, image.crowd, image.classes):
            if part is not None:
                digest.update(str(part.shape).encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
