"""Checks a whole data set, in any layout that the training commands read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

from backbones.common.datasets import existing_split, find_split, instances_files
from backbones.errors import UserError, no_folder
from classification.data.foreign import describe_foreign
from classification.data.listing import ClassListing, NoSplitError
from classification.data.reading import Reading
from classification.data.shard_index import holds_shards
from classification.options import ClassReadingOptions
from detection.data.folders import (
    describe_nearest,
    has_layout,
    home_of,
    known_layout,
    layout_of,
    offers_split,
    open_split,
    refuse_annotation_file,
)
from detection.data.layouts.base import Layout
from detection.data.layouts.other_tools import refuse_other_tool
from detection.data.truth import Truth
from segmentation.data.folders import home_of as label_home
from segmentation.data.folders import painted_reader
from segmentation.data.layout import is_label_folder
from tools.checks.box_sizes import describe_boxes, propose
from tools.checks.boxes import check_coco, check_folder, report_other_categories, report_unnamed
from tools.checks.findings import NOT_SPLIT, CheckReport, absent_split, unequal
from tools.checks.folders import check_classes, list_splits
from tools.checks.images import SplitImages, report_near, report_shared
from tools.checks.label_maps import check_labels
from tools.checks.painted_maps import check_painted

COCO_SPLITS = ("train", "val")
CocoFiles = tuple[Path, Path]  # annotation file, folder of images


def check_dataset(
    root: Path | None,
    *,
    coco_files: Mapping[str, CocoFiles],
    splits: Sequence[str],
    layout: str | None = None,
    truth: Literal["auto", "boxes", "labels"] = "auto",
    ignore_index: int = 255,
    reading: ClassReadingOptions | None = None,
    allow_outside: bool = False,
    decode: bool = True,
    workers: int | None = None,
) -> CheckReport:
    """Check annotations, label maps, folders and image files of a data set; return all problems.

    Args:
        root: folder of the data set; None to check only `coco_files`.
        coco_files: files of COCO splits by name, instead of the files in `root`.
        splits: names of the training and the validation split in `root`.
        layout: name of the layout of detection data; None to recognise the layout.
        truth: what to check if a folder has both boxes and label maps, as VOC's, LabelMe's and Label Studio's have;
            "auto" means boxes.
        ignore_index: number in label maps of pixels that do not count.
        reading: how to read the classes of a classification data set.
        allow_outside: allow file names in a JSON or CSV file that lead out of the image folder.
        decode: read and decode every image; otherwise only check that the file exists.
        workers: threads that read and decode; None for the default of the thread pool.

    Raises:
        UserError: if the layout is unknown, or a split or its files do not exist.
    """
    report = CheckReport()
    if coco := _coco_splits(root, coco_files, splits, layout, report):
        images = {
            split: check_coco(path, folder, split, report, allow_outside=allow_outside)
            for split, (path, folder) in coco.items()
        }
        report_unnamed(images.values(), report)
    else:
        read = Reading.of(reading or ClassReadingOptions(), allow_outside=allow_outside, keep_absent=True)
        names = list(dict.fromkeys(splits))
        images = _check_folders(root or Path(), names, layout, truth, ignore_index, read, report)
    for train, val in pairwise(images.values()):
        report_other_categories(train, val, report)
    _describe(images, report)
    _check_images(images, report, decode=decode, workers=workers)
    return report


def read_truths(
    root: Path | None, *, coco_files: Mapping[str, CocoFiles], splits: Sequence[str], layout: str | None = None
) -> dict[str, Truth]:
    """Read the splits of a data set with boxes for their repair. Files that cannot be read at all are errors.

    The arguments are those of `check_dataset`.

    Raises:
        UserError: the data have no boxes, no split, or a malformed record that no repair exists for.
    """
    found = {split: Truth.of_coco(*files) for split, files in coco_files.items()}
    if root is not None and not found and not has_layout(root, layout):
        raise UserError(f"--fix: repairs data with boxes, and {root} has no layout of boxes; leave --fix out")
    for role, name in zip(COCO_SPLITS, splits, strict=True):
        if root is not None and role not in found and offers_split(root, name, layout):
            found[role] = open_split(root, name, layout=layout, absent_images="keep")
    if not found:
        raise UserError("--fix: the data have no split to repair; name splits with --train-split and --val-split")
    return found


def other_splits(root: Path, splits: Sequence[str], layout: str | None = None) -> list[str]:
    """Return the splits of a data set with boxes that have other names than those in `splits`."""
    known = known_layout(root, layout)
    own = {existing_split(name, partial(known.has_split, root)) for name in splits}
    return [name for name in known.splits(root) if name not in own]


def _describe(images: Mapping[str, SplitImages], report: CheckReport) -> None:
    """Add sizes and shapes of the boxes of each split; for the first one also anchors and a remark on its classes."""
    found = {name: split.boxes for name, split in images.items() if split.boxes is not None}
    report.boxes = {name: describe_boxes(boxes) for name, boxes in found.items()}
    report.anchors = propose(next(iter(found.values()))) if found else []
    for name, described in list(report.boxes.items())[:1]:
        if text := unequal(described["classes"], "boxes"):
            report.add("unequal classes", name, file=str(images[name].folder), text=text)


def _check_folders(
    root: Path,
    splits: Sequence[str],
    layout: str | None,
    truth: str,
    ignore_index: int,
    reading: Reading,
    report: CheckReport,
) -> dict[str, SplitImages]:
    """Check annotations or label maps of a data set in another layout than COCO's; return its image files by split."""
    known = layout_of(root, layout) if truth != "labels" and root.exists() else None
    if known is not None and known.name != "coco":
        chosen = _without_absent_val(root, splits, known, report)
        return {split: check_folder(root, split, report, layout=known.name) for split in chosen}
    if (read := painted_reader(labels := label_home(root))) is not None:
        return check_painted(labels, splits, report, read)
    if is_label_folder(labels):
        return check_labels(labels, splits, report, ignore_index=ignore_index)
    if truth == "labels":
        raise UserError(f"--truth labels: {root} has no label maps in a layout of docs/DATA.md; leave --truth out")
    _refuse_boxes(root)
    return check_classes(_class_splits(root, splits, reading), report)


def _refuse_boxes(root: Path) -> None:
    """Refuse boxes in an unknown layout, whose folders could be taken for class folders."""
    refuse_annotation_file(root)
    refuse_other_tool(root)
    boxes = describe_foreign(root)
    if boxes is not None and boxes[1] == "train_det.py":
        raise UserError(f"--data {root}: holds {boxes[0]} in an unknown layout; {describe_nearest(root)}")


def _check_images(images: Mapping[str, SplitImages], report: CheckReport, *, decode: bool, workers: int | None) -> None:
    for split in images.values():
        if decode:
            split.examine(report, workers=workers, perceptual=len(images) > 1)
        else:
            split.list_missing(report)
    for train, val in pairwise(images.values()):
        report_shared(train, val, report)
        report_near(train, val, report)


def _coco_splits(
    root: Path | None,
    named: Mapping[str, CocoFiles],
    names: Sequence[str],
    layout: str | None,
    report: CheckReport,
) -> dict[str, CocoFiles]:
    """Return the COCO files of each split: those in `named`, or else those found in `root`; {} if there are none.

    Args:
        names: the names that the splits "train" and "val" of `named` have in `root`.
    """
    found: dict[str, CocoFiles] = {}
    root = None if root is None else home_of(root, layout)
    known = layout_of(root, layout) if root is not None and root.exists() else None
    for role, name in zip(COCO_SPLITS, names, strict=True):
        if role in named:
            found[role] = named[role]
        elif root is not None and known is not None and known.name == "coco":
            name = existing_split(name, partial(known.has_split, root))
            if instances_files(root, name) or name not in COCO_SPLITS:
                found[name] = find_split(root, name)
            else:
                whole = NOT_SPLIT if len(instances_files(root)) == 1 else f"has no annotations/instances_{name}*.json"
                report.add("no such split", name, file=str(root), text=whole)
    for _, folder in found.values():
        if not folder.is_dir():
            raise UserError(f"{folder}: {no_folder(folder)} of images; check the path")
    return found


def _without_absent_val(root: Path, splits: Sequence[str], layout: Layout, report: CheckReport) -> list[str]:
    """Return the splits to check. An absent validation split is only reported."""
    if "val" not in splits or layout.has_split(root, existing_split("val", partial(layout.has_split, root))):
        return list(splits)
    report.add("no such split", "val", file=str(root), text=absent_split(layout.splits(root)))
    return [split for split in splits if split != "val"]


def _class_splits(root: Path, splits: Sequence[str], reading: Reading) -> dict[str, ClassListing]:
    """List the images of the splits of a classification data set. Absent splits are omitted."""
    if holds_shards(str(root)):
        raise UserError(f"--data {root}: tar shards are not checked; check the class folders from which they were made")
    if not root.exists():
        raise UserError(f"--data {root}: no such folder; check the path")
    try:
        return list_splits(root, splits, reading)
    except NoSplitError as error:
        raise UserError(
            f"--data {root}: unknown layout; for detection {describe_nearest(root)}; for classification "
            "train/CLASS/* and val/CLASS/*, or a CSV file; for segmentation images/SPLIT, labels/SPLIT with label "
            f"maps, and classes.txt (as classes: {str(error).removeprefix(f'--data {root}: ')})"
        ) from None
