"""Data sets whose boxes lie in a file for each image: Pascal VOC's folders, and YOLO's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from detection.truth import Layout, Note, Truth, refuse
from detection.voc_file import is_voc_folder, read_voc
from detection.yolo_file import is_yolo_folder, read_yolo

LAYOUTS = (
    "COCO's annotations/instances_SPLIT*.json; Pascal VOC's Annotations, JPEGImages and ImageSets/Main/SPLIT.txt; or "
    "YOLO's images/SPLIT, labels/SPLIT and data.yaml or classes.txt"
)


def layout_of(root: Path) -> Layout | None:
    """How a folder is laid out, or None where nothing is known of it."""
    if any((root / "annotations").glob("instances_*.json")):
        return "coco"
    if is_voc_folder(root):
        return "voc"
    return "yolo" if is_yolo_folder(root) else None


def read_folder(
    root: Path, split: str, *, absent_images: Literal["error", "keep"] = "error", note: Note = refuse
) -> Truth | None:
    """A split of a folder in VOC's layout or in YOLO's; None for other folders.

    See `read_voc` and `read_yolo` for arguments and errors.
    """
    readers = {"voc": read_voc, "yolo": read_yolo}
    reader = readers.get(layout_of(root) or "")
    return reader(root, split, absent_images=absent_images, note=note) if reader else None
