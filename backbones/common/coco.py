"""Types of the records in COCO's JSON files, after the records were checked."""

from __future__ import annotations

from typing import TypedDict


class RunLengths(TypedDict):
    """An uncompressed run-length code of a mask, column by column. The first run counts background pixels."""

    counts: list[int]
    size: list[int]  # height, width


class CompressedRuns(TypedDict):
    """A run-length code of a mask in COCO's compressed form, which `pycocotools.mask` reads."""

    counts: bytes
    size: list[int]  # height, width


class CompressedMask(TypedDict):
    """A run-length code of a mask in COCO's compressed form, as JSON holds it."""

    counts: str
    size: list[int]  # height, width


class ImageRecord(TypedDict, total=False):
    """An entry of the list `images` of a COCO file."""

    id: int
    file_name: str
    width: float
    height: float


class CategoryRecord(TypedDict, total=False):
    """An entry of the list `categories` of a COCO file."""

    id: int
    name: str
    supercategory: str


class AnnotationRecord(TypedDict, total=False):
    """An entry of the list `annotations` of a COCO file."""

    id: int
    image_id: int
    category_id: int
    segmentation: list[list[float]] | RunLengths | CompressedMask
    bbox: list[float]  # x, y, width, height in pixels
    area: float
    iscrowd: int


class InstancesFile(TypedDict):
    """The part of an instances file that the project reads."""

    images: list[ImageRecord]
    annotations: list[AnnotationRecord]
    categories: list[CategoryRecord]


class ResultRecord(TypedDict):
    """A detection in COCO's results format."""

    image_id: int
    category_id: int
    bbox: list[float]  # x, y, width, height in pixels
    score: float


class MaskResultRecord(ResultRecord, total=False):
    """A detection in COCO's results format that may have a mask."""

    segmentation: CompressedMask
