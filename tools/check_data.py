"""Check a data set: every problem in one pass, before a training run meets them one by one.

    python tools/check_data.py --data coco
    python tools/check_data.py --data imagenet --workers 8 --json problems.json
    python tools/check_data.py --data camvid --ignore-index 11
    python tools/check_data.py --data VOC2007 --train-split trainval --val-split test
    python tools/check_data.py --train-annotations A.json --train-images A/ --images false

`--data` is in one of the layouts that the training scripts take: COCO's, Pascal VOC's or YOLO's folders of boxes, class
folders, or images beside label maps.
The exit status is 0 for a clean data set, 1 where something is wrong, and 2 where there is nothing to check.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError, require
from tools.cli.ending import run
from tools.cli.parsing import parse

if TYPE_CHECKING:
    from tools.checks.findings import Report
    from tools.checks.images import Images

SPLITS: tuple[Literal["train", "val"], ...] = ("train", "val")


@dataclass
class CheckOptions:
    """What to check.

    Args:
        data: folder in COCO's layout, Pascal VOC's or YOLO's, of class folders (train/CLASS/*, val/CLASS/*), or of
            images and label maps.
        truth: which of the two to check where VOC's folder has boxes and label maps; auto takes the boxes.
        train_annotations: COCO JSON of the training split, instead of the one in `data`.
        train_images: its image folder.
        val_annotations: COCO JSON of the validation split, instead of the one in `data`.
        val_images: its image folder.
        train_split: split to train on, where it is no COCO file or class folder that says so.
        val_split: split to measure, likewise.
        ignore_index: number in label files of pixels that do not count.
        allow_outside: take file names of the JSON that lead out of the image folder.
        images: read and decode every image; otherwise only see that it is there.
        workers: threads that read and decode; absent: a few more than cores.
        json: file for all problems.
        overwrite: replace `json` where it exists.
    """

    data: str | None = None
    truth: Literal["auto", "boxes", "labels"] = "auto"
    train_annotations: str | None = None
    train_images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    ignore_index: int = 255
    allow_outside: bool = False
    images: bool = True
    workers: int | None = None
    json: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not (self.data or self.train_annotations or self.val_annotations):
            raise UserError("--data: name a data set, or its --train-annotations and --train-images")
        for split in SPLITS:
            file, folder = getattr(self, f"{split}_annotations"), getattr(self, f"{split}_images")
            require((file is None) == (folder is None), f"{split}_annotations", file, f"goes with --{split}-images")
        require(0 <= self.ignore_index <= 255, "ignore_index", self.ignore_index, "must be 0 to 255")
        require(self.workers is None or self.workers > 0, "workers", self.workers, "must be above 0")


@dataclass
class Options:
    """The script's option groups."""

    check: CheckOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check, report."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv).check

    from backbones.common.files import write_json
    from tools.checks.findings import Report

    _require_writable(options)
    report = Report()
    look(check(options, report), options, report)
    print(report.table())
    if options.json:
        write_json(Path(options.json), report.as_json())
    if report.wrong:
        raise SystemExit(1)


def check(options: CheckOptions, report: Report) -> dict[str, Images]:
    """Check all but the image files, which are returned by split.

    Raises:
        UserError: where there is no data set in a layout that is known.
    """
    from detection.data.folders import layout_of
    from segmentation.data.folders import is_label_folder
    from tools.checks.boxes import check_coco, check_folder
    from tools.checks.folders import check_classes, check_labels

    if coco := _coco_splits(options):
        outside = options.allow_outside
        return {split: check_coco(*paths, split, report, allow_outside=outside) for split, paths in coco.items()}
    root = Path(options.data or "")
    splits = dict.fromkeys((options.train_split, options.val_split))
    if options.truth != "labels" and layout_of(root) in ("voc", "yolo"):
        return {split: check_folder(root, split, report) for split in splits}
    if is_label_folder(root):
        return check_labels(root, list(splits), report, ignore_index=options.ignore_index)
    return check_classes(_class_splits(root), report)


def look(files: dict[str, Images], options: CheckOptions, report: Report) -> None:
    """Check the image files of each split, and what two splits share."""
    from tools.checks.images import report_shared

    for images in files.values():
        if options.images:
            images.look(report, workers=options.workers)
        else:
            images.list_missing(report)
    for train, val in pairwise(files.values()):
        report_shared(train, val, report)


def _coco_splits(options: CheckOptions) -> dict[str, tuple[Path, Path]]:
    """Annotation file and image folder by split, of those named or of a folder in COCO's layout; none of others."""
    from backbones.common.datasets import find_split

    found: dict[str, tuple[Path, Path]] = {}
    for split in SPLITS:
        annotations, images = getattr(options, f"{split}_annotations"), getattr(options, f"{split}_images")
        if annotations:
            found[split] = Path(annotations), Path(images)
        elif options.data and any((Path(options.data) / "annotations").glob(f"instances_{split}*.json")):
            found[split] = find_split(Path(options.data), split)
    for _, folder in found.values():
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of images")
    return found


def _class_splits(root: Path) -> dict[str, Path]:
    from classification.data.shards import holds_shards
    from detection.data.folders import LAYOUTS

    if holds_shards(str(root)):
        raise UserError(f"--data {root}: tar shards are not checked; check the folders that they were made of")
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder")
    found = {split: root / split for split in ("train", "val", "test") if (root / split).is_dir()}
    if "val" in found:
        found.pop("test", None)  # training takes test/ only in place of val/
    if not found:
        raise UserError(
            f"--data {root}: no layout that is known: {LAYOUTS}; train/CLASS/* and val/CLASS/*; or images/SPLIT, "
            "labels/SPLIT of label maps and classes.txt"
        )
    return found


def _require_writable(options: CheckOptions) -> None:
    if options.json and Path(options.json).exists() and not options.overwrite:
        raise UserError(f"--json {options.json}: exists already; name another file or pass --overwrite")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: its folder does not exist; create it first")


if __name__ == "__main__":
    run(main)
