"""Converts a detection data set from one layout to another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from backbones.common.files import create_once
from backbones.errors import UserError
from detection.data.annotations import CategoryMap, CocoAnnotations
from detection.data.folders import known_layout, open_split
from detection.data.truth import Truth
from detection.data.writers import WRITERS, describe

WritableLayout = Literal["coco", "voc", "yolo"]


def convert(
    source: Path,
    output: Path,
    *,
    to: WritableLayout,
    splits: Mapping[str, str],
    layout: str | None = None,
    bad_boxes: Literal["error", "drop"] = "error",
) -> list[str]:
    """Write a data set in another layout.

    Args:
        source: folder of the data set.
        output: folder to create.
        to: the layout to write.
        splits: name of the split of `source` for each split of `output`.
        layout: name of the layout of `source`; None to recognise the layout.
        bad_boxes: whether boxes that the new layout cannot represent are errors or are left out.

    Returns:
        For each split a line with the numbers of images and boxes, and of what the new layout cannot represent.

    Raises:
        UserError: if the source is malformed or incomplete, the new layout cannot represent it, or `output` exists.
    """
    if output.exists():
        raise UserError(f"--output {output}: exists already; name a new folder")
    if not splits:
        raise UserError("--train-split null: name at least one split")
    truths = {name: _read(source, split, to, layout, bad_boxes) for name, split in splits.items()}
    if "voc" in (to, *(truth.layout for truth in truths.values())):
        _refuse_shared_images(truths)
    _refuse_different_classes(truths)
    lines: list[str] = []

    def write(folder: Path) -> None:
        for name, truth in truths.items():
            lost = WRITERS[to](folder, name, truth, drop=bad_boxes == "drop")
            lines.append(describe(name, truth, lost))

    create_once(output, is_complete=output.exists, write=write)
    return lines


def _read(
    source: Path, split: str, to: WritableLayout, layout: str | None, bad_boxes: Literal["error", "drop"]
) -> Truth:
    """Read a split and check it as training does, except that boxes without area are allowed."""
    if known_layout(source, layout).name == to:
        raise UserError(f"--to {to}: {source} already has this layout; name another layout")
    truth = open_split(source, split, layout=layout, bad_boxes=bad_boxes)
    CocoAnnotations.of(truth, bad_boxes="drop")
    return truth


def _refuse_shared_images(truths: Mapping[str, Truth]) -> None:
    """Refuse splits with the same image name, because VOC keeps the images of all splits in one folder."""
    owners: dict[str, str] = {}
    for name, truth in truths.items():
        for image in truth.data["images"]:
            file = image["file_name"]
            if file in owners:
                raise UserError(
                    f"{truth.path}: {file} occurs in both {owners[file]} and {name}, but VOC keeps the "
                    "images of all splits in one folder; choose different splits, or rename one of the "
                    "image files"
                )
            owners[file] = name


def _refuse_different_classes(truths: Mapping[str, Truth]) -> None:
    """Refuse splits with different categories, because the new layout has one list of classes for all splits."""
    (here, first), *others = ((t.path, CategoryMap.from_json(t.data["categories"], t.path)) for t in truths.values())
    for there, other in others:
        first.require_same(other, here=str(here), there=str(there))
