"""Types of the jobs of the processes that draw the shapes data set, and of their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from backbones.common.coco import InstancesFile, RunLengths

ImageJob = tuple[int, int, str]  # index of the split, index of the image in its split, file to write


class DrawingJob(TypedDict):
    """Job of one drawing process: the images of the shapes data set that it must draw, and how."""

    images: Sequence[ImageJob]
    size: int  # width and height of an image in pixels
    seed: int


class MaskFields(TypedDict):
    """Fields of an annotation that follow from the object's mask."""

    segmentation: list[list[float]] | RunLengths
    bbox: list[float]  # x, y, width, height in pixels
    area: float
    iscrowd: int


class DrawnObject(MaskFields):
    """Annotation of a drawn object, without ids; `kind` is the index of its category in `shapes.CATEGORIES`."""

    kind: int


class Info(TypedDict):
    """Entry `info` of the annotation file of the shapes data set."""

    description: str
    version: str
    seed: int


class ShapesFile(InstancesFile):
    """Content of an annotation file of the shapes data set."""

    info: Info
