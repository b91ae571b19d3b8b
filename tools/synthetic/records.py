"""Types of the jobs that draw the shapes, and of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from backbones.common.coco import InstancesFile, RunLengths

ImageJob = tuple[int, int, str]  # index of the split, index of the image in its split, file to write


class DrawingJob(TypedDict):
    """The images that one process draws."""

    images: Sequence[ImageJob]
    size: int  # width and height of an image in pixels
    seed: int


class MaskFields(TypedDict):
    """The fields of an annotation that follow from its mask."""

    segmentation: list[list[float]] | RunLengths
    bbox: list[float]  # x, y, width, height in pixels
    area: float
    iscrowd: int


class DrawnObject(MaskFields):
    """An annotation without its ids; `kind` is the index of the category in `shapes.CATEGORIES`."""

    kind: int


class Info(TypedDict):
    """The entry `info` of the shapes."""

    description: str
    version: str
    seed: int


class ShapesFile(InstancesFile):
    """The content of the annotation file of the shapes."""

    info: Info
