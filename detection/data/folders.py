"""Data sets whose boxes lie in a file for each image: Pascal VOC's folders, and YOLO's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backbones.errors import UserError
from detection.data.truth import Layout, Note, Truth, refuse
from detection.data.voc import is_voc_folder, read_voc
from detection.data.yolo import is_yolo_folder, read_yolo
from detection.options import DetectionDataOptions

if TYPE_CHECKING:
    from detection.data.annotations import CocoAnnotations


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


def read_annotations(
    data: DetectionDataOptions, split: Literal["train", "val"], *, absent_images: Literal["keep", "error"] = "error"
) -> CocoAnnotations:
    """The truth of a split.

    Raises:
        UserError: where files are missing or malformed, or the folder has no layout that is known.
    """
    from backbones.common.datasets import find_split
    from detection.data.annotations import CocoAnnotations

    reading: dict[str, Any] = {
        "bad_boxes": data.bad_boxes,
        "absent_images": absent_images,
        "allow_outside": data.allow_outside,
    }
    if named := getattr(data, f"{split}_annotations"):
        return CocoAnnotations.read(Path(named), Path(getattr(data, f"{split}_images")), **reading)
    if data.data is None:
        from tools.processes.distributed import on_main
        from tools.synthetic import shapes

        return CocoAnnotations.read(*find_split(on_main(shapes.prepare), split), **reading)
    root, name = Path(data.data), getattr(data, f"{split}_split")
    if truth := read_folder(root, name, absent_images=absent_images):
        return CocoAnnotations.of(truth, **reading)
    if root.is_dir() and layout_of(root) is None:
        raise UserError(f"--data {root}: no layout that is known: {LAYOUTS}")
    return CocoAnnotations.read(*find_split(root, name), **reading)
