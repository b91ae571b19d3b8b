"""Recognises annotation files of tools whose formats are not read, so that a message can name the tool and the way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from backbones.common.listing import files_of, subfolders, walk
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError
from detection.data.layouts.sniffing import head_of

SUFFIXES = (".json", ".jsonl", ".ndjson", ".manifest", ".txt", ".csv", ".tsv", ".xml", ".tfrecord", ".parquet")
FILES = 3  # files of a suffix in a folder that are looked at
FOLDERS = 50  # folders that are looked at
COCO = "export it as COCO"


class _Format(NamedTuple):
    """A format that is not read.

    Attributes:
        title: what the file is.
        marks: what the beginning of the file holds: keys of JSON, or a regular expression that starts with `\\A`.
        way: what to do.
    """

    title: str
    marks: tuple[str, ...]
    way: str = COCO


FORMATS = (
    _Format("datumaro's own format", ("categories", "label", "labels", "items"), "export it as COCO (coco_instances)"),
    _Format("COCO's panoptic format", ("segments_info", "annotations"), "use the instances_*.json of the data set"),
    _Format("Labelbox's format", ("data_row", "media_attributes"), "convert it to COCO with labelbox's library"),
    _Format("Labelbox's format", ("Labeled Data", "Label"), "convert it to COCO with labelbox's library"),
    _Format("V7 Darwin's format", ("item", "slots", "annotations"), "export it as COCO, or with `darwin convert`"),
    _Format("Dataloop's format", ("datasetId", "annotations", "filename")),
    _Format("SageMaker's manifest format", ("source-ref",), "convert it to COCO, or to a CSV file of boxes"),
    _Format("Scale's format", ("task_id", "params", "response"), "convert it to COCO, or to a CSV file of boxes"),
    _Format("VoTT's format", ("asset", "regions"), "export it as Pascal VOC or CSV"),
    _Format("BDD100K's format", ("box2d", "category"), "convert it to COCO with its toolkit"),
    _Format("FiftyOne's own format", ("samples", "filepath"), "export it as fiftyone.types.COCODetectionDataset"),
    _Format("Hasty's format", ("label_classes", "export_format_version"), COCO),
    _Format("SuperAnnotate's format", ("instances", "className"), "convert it to COCO with superannotate's library"),
    _Format("Encord's format", ("data_units", "label_hash"), COCO),
    _Format("Azure's format", ("image_url", "image_details"), COCO),
    _Format("PaliGemma's format", ("prefix", "suffix")),
    _Format(
        "Label Studio's CSV format", (r"\Aannotation_id[\s\S]*(?:rectangle|polygon|brush)labels",), "export it as JSON"
    ),
    _Format("LabelMe 3's XML format", (r"\A[\s\S]*<annotation>[\s\S]*<polygon>\s*<pt>",), "export it as COCO or VOC"),
    _Format(
        "MOT's or VisDrone's format", (r"\A(?:\d+,){2}(?:-?[\d.]+,){4,7}-?[\d.]+\s",), "convert it to COCO or YOLO"
    ),
    _Format(
        "DOTA's format", (r"\A(?:imagesource.*\n)?(?:gsd.*\n)?(?:-?[\d.]+ ){8}[^\d\s]\S* \d\s",), "convert it to YOLO"
    ),
    _Format(
        "KITTI's format", (r"\A[^\d\s]\S* [\d.-]+ -?\d (?:-?[\d.]+ ){11}-?[\d.]+\s",), "convert it to COCO or YOLO"
    ),
    _Format("WIDER FACE's format", (r"\A\S+\.jpg\n\d+\n(?:\d+ ){9}\d ?\n",), "convert it to COCO or YOLO"),
)

# Files that hold images as well.
PACKED = {
    ".tfrecord": "holds TensorFlow's records, which are not read; export the data as COCO, or as TensorFlow's CSV",
    ".parquet": "holds Parquet tables, which are not read; save the images with a metadata.jsonl beside them",
}


def describe_other_tool(path: Path) -> str | None:
    """Return what to say about a file of a tool whose format is not read; None for other files."""
    head = head_of(path)
    found = next((each for each in FORMATS if all(re.search(_pattern(mark), head) for mark in each.marks)), None)
    return None if found is None else f"{path}: is in {found.title}, which is not read; {found.way}"


def refuse_other_tool(root: Path) -> None:
    """Refuse a folder with a file of a tool whose format is not read.

    Raises:
        UserError: the text names the file, the tool and the way.
    """
    for path in _candidates(root):
        if text := describe_other_tool(path) or _describe_packed(path, root):
            raise UserError(text)


def _describe_packed(path: Path, root: Path) -> str | None:
    """Return what to say about a file that holds images, in a data set without image files; None for other files."""
    if path.suffix.lower() not in PACKED or any(file.suffix.lower() in IMAGE_SUFFIXES for file in walk(root)):
        return None
    return f"{path}: {PACKED[path.suffix.lower()]}"


def _candidates(root: Path) -> Iterator[Path]:
    """Yield the first files of each suffix in a folder and the folders below."""
    folders = [root]
    for folder in folders:
        for suffix in SUFFIXES:
            yield from files_of(folder, suffix)[:FILES]
        folders += subfolders(folder)[: max(0, FOLDERS - len(folders))]


def _pattern(mark: str) -> str:
    """Return the regular expression of a mark. A key of JSON stands in quotes, before a colon."""
    return mark if mark.startswith(r"\A") else rf'"{re.escape(mark)}"\s*:'
