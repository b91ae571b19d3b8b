"""Recognises data sets of boxes and label maps, whose folders could be taken for class folders."""

from __future__ import annotations

from pathlib import Path

from backbones.common.datasets import existing_split, instances_files
from backbones.common.json_lines import FILE
from backbones.common.listing import visible, walk
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError
from classification.data.json_lines import names_boxes

ROBOFLOW_COCO = "_annotations.coco.json"


def refuse_foreign(root: Path, split: str) -> None:
    """Refuse a data set of boxes or label maps.

    Args:
        root: folder of the data set.
        split: name of the split to open.

    Raises:
        UserError: the text says what the folder holds and which command trains on it.
    """
    folder = root / existing_split(split, lambda name: (root / name).is_dir())
    if found := describe_foreign(folder) or describe_foreign(root):
        what, command = found
        raise UserError(f"--data {root}: holds {what}, not class folders; train on it with tools/{command}")


def describe_foreign(folder: Path) -> tuple[str, str] | None:
    """Return what a folder of another task holds, and the command that trains on it; None for other folders."""
    if not folder.is_dir():
        return None
    if (folder / ROBOFLOW_COCO).is_file():
        return f"boxes in the format of COCO ({ROBOFLOW_COCO})", "train_det.py"
    if instances_files(folder):
        return "boxes in COCO's layout (annotations/instances_*.json)", "train_det.py"
    if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        return "boxes in Pascal VOC's layout (Annotations, JPEGImages)", "train_det.py"
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return _beside_images(folder, "labels")
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return "images and label maps (images, masks)", "train_seg.py"
    if (folder / "ann").is_dir() and (folder / "img").is_dir():
        return "boxes in Supervisely's layout (ann, img)", "train_det.py"
    if names_boxes(folder / FILE):
        return f"boxes in Hugging Face's {FILE}", "train_det.py"
    if _has_both(folder, ".xml"):
        return "images with boxes in XML files beside them", "train_det.py"
    return None


def _beside_images(folder: Path, labels: str) -> tuple[str, str]:
    """Return what a folder `labels` beside `images` holds: boxes in text files, or label maps."""
    for file in walk(folder / labels):
        if file.suffix.lower() == ".txt":
            return f"boxes in YOLO's layout (images, {labels})", "train_det.py"
        if file.suffix.lower() in IMAGE_SUFFIXES:
            return f"images and label maps (images, {labels})", "train_seg.py"
    return f"images and {labels}, as data sets of boxes or label maps do", "train_det.py or tools/train_seg.py"


def _has_both(folder: Path, suffix: str) -> bool:
    """Return whether files of a suffix lie beside images of the same names."""
    files = {entry.name for entry in visible(folder, "*") if entry.is_file()}
    named = (name.removesuffix(suffix) for name in files if name.endswith(suffix))
    return any(f"{stem}{image}" in files for stem in named for image in IMAGE_SUFFIXES)
