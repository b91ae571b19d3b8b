"""Types of the records of the generated data sets, in COCO's format, and of the jobs that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

ImageJob = tuple[int, int, str]  # index of the split, index of the image in its split, file to write


class DrawingJob(TypedDict):
    """The images that one process draws."""

    images: Sequence[ImageJob]
    size: int  # width and height of an image in pixels
    seed: int


class RunLengths(TypedDict):
    """An uncompressed run-length code of a mask, column by column; the first run counts zeros."""

    counts: list[int]
    size: list[int]  # height, width


class MaskFields(TypedDict):
    """The fields of an annotation that follow from its mask."""

    segmentation: list[list[float]] | RunLengths
    bbox: list[float]  # x, y, width, height in pixels
    area: float
    iscrowd: int


class DrawnObject(MaskFields):
    """An annotation without its ids; `kind` is the index of the category in `shapes.CATEGORIES`."""

    kind: int


class ImageRecord(TypedDict):
    """An entry of `images`."""

    id: int
    file_name: str
    width: int
    height: int


class CategoryRecord(TypedDict, total=False):
    """An entry of `categories`."""

    id: int
    name: str
    supercategory: str


class AnnotationRecord(TypedDict, total=False):
    """An entry of `annotations`."""

    id: int
    image_id: int
    category_id: int
    segmentation: list[list[float]] | RunLengths
    bbox: list[float]  # x, y, width, height in pixels
    area: float
    iscrowd: int


class ResultRecord(TypedDict):
    """A detection in COCO's results format."""

    image_id: int
    category_id: int
    bbox: list[float]  # x, y, width, height in pixels
    score: float


class Info(TypedDict):
    """The entry `info` of the shapes."""

    description: str
    version: str
    seed: int


class GroundTruth(TypedDict, total=False):
    """The content of a COCO instances file."""

    info: Info
    images: list[ImageRecord]
    annotations: list[AnnotationRecord]
    categories: list[CategoryRecord]
