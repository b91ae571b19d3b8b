"""Converts a detection data set from one layout to another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from backbones.common.category_options import EVERY_CATEGORY, CategoryOptions
from backbones.common.datasets import existing_split
from backbones.common.files import create_once
from backbones.errors import UserError, first_names
from detection.data.annotations import CategoryMap, CocoAnnotations
from detection.data.folders import known_layout, open_file, open_split
from detection.data.layouts.base import Reading
from detection.data.tool_writers import TOOL_WRITERS
from detection.data.truth import Truth
from detection.data.voc_writer import write_voc
from detection.data.writers import Writer, describe, write_coco
from detection.data.yolo_writer import write_yolo

WRITERS: dict[str, Writer] = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, **TOOL_WRITERS}
KEEP_CLASSES = ("coco", "coco-roboflow", "voc", "yolo", "cvat")  # layouts that list classes apart from the objects


def convert(
    source: Path,
    output: Path,
    *,
    to: str,
    splits: Mapping[str, str],
    layout: str | None = None,
    images: Path | None = None,
    bad_boxes: Literal["error", "drop"] = "error",
    categories: CategoryOptions = EVERY_CATEGORY,
    masks: bool = False,
) -> list[str]:
    """Write a data set in another layout.

    Args:
        source: folder of the data set; with `images`, its annotation file.
        output: folder to create.
        to: the layout to write.
        splits: name of the split of `source` for each split of `output`.
        layout: name of the layout of `source`; None to recognise the layout.
        images: folder of the images, if `source` is an annotation file; `splits` then names "train" alone.
        bad_boxes: whether boxes that the new layout cannot represent are errors or are left out.
        categories: classes to merge, rename and choose. If there are such changes, classes that no box of any split
            has are dropped, unless `categories.keep_unused`.
        masks: write the masks of objects wherever the new layout can hold them, even if that changes boxes by a part
            of a pixel. Otherwise boxes stay, and outlines that do not fit their box are left out and counted.

    Returns:
        For each split a line with the numbers of images and boxes, and of what the new layout cannot represent; and a
        line on the classes that were dropped, if there are any.

    Raises:
        UserError: if the source is malformed or incomplete, the new layout cannot represent it, or `output` exists.
    """
    _require_writable(to, output, splits)
    truths = {
        name: _read(source, split, to, layout, images, bad_boxes, categories, masks) for name, split in splits.items()
    }
    if "voc" in (to, *(truth.layout for truth in truths.values())):
        _refuse_shared_images(truths)
    _refuse_different_classes(truths)
    unused = _without_unused(truths, to, categories)
    lines = _write(truths, output, to=to, drop=bad_boxes == "drop", masks=masks)
    return [*lines, f"left out: classes without objects ({first_names(unused)})"] if unused else lines


def _require_writable(to: str, output: Path, splits: Mapping[str, str]) -> None:
    """Refuse an unknown layout to write, an output folder that exists, and a conversion of no split."""
    if to not in WRITERS:
        hint = "pass --truth labels" if to in ("folders", "beside") else f"name one of {', '.join(WRITERS)}"
        raise UserError(f"--to {to}: is no layout of boxes; {hint}")
    if output.exists():
        raise UserError(f"--output {output}: exists already; name a new folder")
    if not splits:
        raise UserError("--train-split null: name at least one split")


def _without_unused(truths: Mapping[str, Truth], to: str, categories: CategoryOptions) -> list[str]:
    """Return the unused classes that the output will not list; remove them from the records if the options say so."""
    unused = _unused_classes(truths.values())
    if unused and categories.changes_classes and not categories.keep_unused:
        _drop(unused, truths.values())
        return unused
    return [] if to in KEEP_CLASSES else unused


def _write(truths: Mapping[str, Truth], output: Path, *, to: str, drop: bool, masks: bool) -> list[str]:
    """Write all splits, or nothing if one of them fails; return a line for each split."""
    lines = list[str]()

    def write(folder: Path) -> None:
        for name, truth in truths.items():
            lines.append(describe(name, truth, WRITERS[to](folder, name, truth, drop=drop, masks=masks)))

    create_once(output, is_complete=output.exists, write=write)
    return lines


def chosen_splits(
    source: Path, wanted: Mapping[str, str | None], *, layout: str | None = None
) -> tuple[dict[str, str], list[str]]:
    """Return the splits to convert, by their names in the new folder, and the names of the other splits.

    Args:
        wanted: for each split of the new folder the split of `source`, "auto" for the split of the same name if there
            is one, or None for no split.

    Raises:
        UserError: the layout is unknown, or `source` has no split to convert.
    """
    known = known_layout(source, layout)
    found = {}
    for name, split in wanted.items():
        own = existing_split(name, partial(known.has_split, source)) if split == "auto" else split
        if own is not None and (split != "auto" or known.has_split(source, own) or own in known.splits(source)):
            found[name] = own
    there = known.splits(source)
    if not found:
        raise UserError(
            f"--data {source}: has no split train, val or test; name one with --train-split ({', '.join(there)})"
        )
    return found, [split for split in there if split not in found.values() and split not in found]


def _read(
    source: Path,
    split: str,
    to: str,
    layout: str | None,
    images: Path | None,
    bad_boxes: Literal["error", "drop"],
    categories: CategoryOptions,
    masks: bool,
) -> Truth:
    """Read a split and check it as training does, except that boxes without area are allowed."""
    if images is not None:
        truth = open_file(source, images, Reading(bad_boxes=bad_boxes, masks=masks))
    elif known_layout(source, layout).name == to:
        raise UserError(f"--to {to}: {source} already has this layout; name another layout")
    else:
        truth = open_split(source, split, layout=layout, bad_boxes=bad_boxes, masks=masks)
    truth = truth.with_categories(categories)
    CocoAnnotations.of(truth, bad_boxes="drop")
    return truth


def _unused_classes(truths: Iterable[Truth]) -> list[str]:
    """Return the names of the classes that have no object in any split."""
    names: dict[int, str] = {}
    used: set[int] = set()
    for truth in truths:
        names |= {record["id"]: str(record["name"]) for record in truth.data["categories"]}
        used |= {record["category_id"] for record in truth.data["annotations"]}
    return [name for key, name in names.items() if key not in used]


def _drop(names: Collection[str], truths: Iterable[Truth]) -> None:
    """Remove categories that no annotation has."""
    for truth in truths:
        truth.data["categories"] = [each for each in truth.data["categories"] if str(each["name"]) not in names]


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
