"""Opens splits of data sets in any known layout: COCO, Pascal VOC, YOLO or a plugin's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from backbones.common.datasets import existing_split, find_split, instances_files, read_coco
from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.layouts import registered_layout
from detection.data.truth import ProblemHandler, Truth, raise_problem
from detection.data.voc import is_voc_folder, read_voc
from detection.data.yolo import BAD_BOX, is_yolo_folder, read_yolo
from detection.options import DetectionDataOptions

LAYOUTS = (
    "COCO's annotations/instances_SPLIT*.json; Pascal VOC's Annotations, JPEGImages and ImageSets/Main/SPLIT.txt; or "
    "YOLO's images/SPLIT, labels/SPLIT and data.yaml or classes.txt"
)


def layout_of(root: Path) -> str | None:
    """Return the name of a folder's layout, or None if the layout is unknown."""
    if registered := registered_layout(root):
        return registered.name
    if instances_files(root):
        return "coco"
    if is_voc_folder(root):
        return "voc"
    return "yolo" if is_yolo_folder(root) else None


def known_layout(root: Path) -> str:
    """Return the name of a folder's layout.

    Raises:
        UserError: the folder does not exist, or its layout is unknown.
    """
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder; check the path")
    layout = layout_of(root)
    if layout is None:
        raise UserError(f"--data {root}: unknown layout; expected {LAYOUTS}")
    return layout


def has_split(root: Path, name: str) -> bool:
    """Return whether a data set in the layout of Pascal VOC, YOLO or COCO has a split of a name."""
    folders = (root / "images" / name, root / name / "images")
    listed = (root / "ImageSets" / "Main" / f"{name}.txt").is_file()
    return listed or any(folder.is_dir() for folder in folders) or bool(instances_files(root, name))


def open_split(
    root: Path,
    split: str,
    *,
    absent_images: Literal["error", "keep"] = "error",
    bad_boxes: Literal["error", "drop"] = "error",
    on_problem: ProblemHandler = raise_problem,
) -> Truth:
    """Read the records of a split. Records of a COCO file are not checked yet; `CocoAnnotations.of` checks them.

    Args:
        root: folder of the data set.
        split: name of the split, such as "train".
        absent_images: whether a missing image file is an error (VOC and YOLO).
        bad_boxes: whether a box far outside its image is a problem, or left out and counted (YOLO; `CocoAnnotations.of`
            does it for other layouts).
        on_problem: what to do about a malformed record (VOC and YOLO).

    Raises:
        UserError: the layout is unknown, there is no such split, or, by default, a record is malformed.
    """
    layout = known_layout(root)
    if registered := registered_layout(root):
        return registered.open(root, split)
    split = existing_split(split, lambda name: has_split(root, name))
    if layout == "voc":
        return read_voc(root, split, absent_images=absent_images, on_problem=on_problem)
    if layout == "yolo":
        return _read_yolo(root, split, absent_images, bad_boxes, on_problem)
    path, folder = find_split(root, split)
    return Truth("coco", path, folder, read_coco(path))


def _read_yolo(
    root: Path,
    split: str,
    absent_images: Literal["error", "keep"],
    bad_boxes: Literal["error", "drop"],
    on_problem: ProblemHandler,
) -> Truth:
    dropped: list[str] = []

    def drop(kind: str, file: str, error: UserError) -> None:
        if kind == BAD_BOX and bad_boxes == "drop":
            dropped.append(file)
        else:
            on_problem(kind, file, error)

    truth = read_yolo(root, split, absent_images=absent_images, on_problem=drop)
    if dropped:
        truth.notes["boxes far outside their image dropped"] += len(dropped)
    return truth


def read_annotations(
    data: DetectionDataOptions, split: Literal["train", "val"], *, absent_images: Literal["keep", "error"] = "error"
) -> CocoAnnotations:
    """Read and check the annotations of one split. The options name the data set.

    Args:
        data: names files, or a folder. The caller replaces a missing folder by that of the built-in shapes.

    Raises:
        UserError: files are missing or malformed, or the layout of the folder is unknown.
    """
    annotations, images, name = (getattr(data, f"{split}_{what}") for what in ("annotations", "images", "split"))
    if annotations is not None:
        truth = Truth("coco", Path(annotations), Path(images), read_coco(Path(annotations)))
    elif data.data is not None:
        truth = open_split(Path(data.data), name, absent_images=absent_images, bad_boxes=data.bad_boxes)
    else:
        raise UserError(f"--data: is missing; name a folder, or an annotation file with --{split}-annotations")
    return CocoAnnotations.of(
        truth, bad_boxes=data.bad_boxes, absent_images=absent_images, allow_outside=data.allow_outside
    )
