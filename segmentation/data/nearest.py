"""Says which layouts a folder of unknown layout comes nearest to, and what it lacks for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backbones.common.datasets import instances_files
from backbones.common.listing import list_files, visible
from backbones.common.suffixes import IMAGE_SUFFIXES
from segmentation.data.layout import CLASS_LISTS, LABEL_FOLDERS, LABEL_SUFFIXES

SHOWN = 2  # layouts in a message


def describe_nearest(root: Path) -> str:
    """Return the nearest layouts of label maps as text, each with what the folder lacks for it."""
    layouts = sorted(_signs(root).items(), key=lambda entry: -sum(entry[1].values()) / len(entry[1]))
    parts = []
    for name, signs in layouts[:SHOWN]:
        absent = [sign for sign, is_there in signs.items() if not is_there]
        parts.append(f"{name} (lacks {', '.join(absent)})")
    return " or ".join(parts)


def _signs(root: Path) -> Mapping[str, Mapping[str, bool]]:
    """Return what each layout consists of, and whether the folder has it."""
    maps = any((root / name).is_dir() and list_files(root / name, LABEL_SUFFIXES).files for name in LABEL_FOLDERS)
    return {
        "folders of label maps": {
            "images/": (root / "images").is_dir(),
            "label maps in labels/ or masks/": maps,
            CLASS_LISTS[0]: any((root / name).is_file() for name in CLASS_LISTS),
        },
        "Pascal VOC or CVAT": {
            "ImageSets/Segmentation/SPLIT.txt": any(visible(root, "ImageSets/Segmentation/*.txt")),
            "JPEGImages/": (root / "JPEGImages").is_dir(),
            "SegmentationClass/": (root / "SegmentationClass").is_dir(),
        },
        "COCO": {
            "annotations/instances_SPLIT*.json": bool(instances_files(root)),
            "images in SPLIT*/": any(list_files(each, IMAGE_SUFFIXES).files for each in visible(root, "train*/")),
        },
        "label maps beside images": {
            "images": any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in visible(root, "*")),
            "label maps such as NAME_mask.png beside them": False,
        },
        "LabelMe or Label Studio": {
            "images": bool(list_files(root, IMAGE_SUFFIXES).files),
            "JSON files of annotations": False,
        },
    }
