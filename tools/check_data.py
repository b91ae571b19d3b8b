"""Check a data set and report all problems at once, before a training run stops at the first one.

    python tools/check_data.py --data coco
    python tools/check_data.py --data imagenet --workers 8 --json problems.json
    python tools/check_data.py --data camvid --ignore-index 11
    python tools/check_data.py --data coco --fix coco-repaired
    python tools/check_data.py --data VOC2007 --train-split trainval --val-split test
    python tools/check_data.py --train-annotations A.json --train-images A/ --decode false
    python tools/check_data.py --annotations result.json --images photos

`--data` has one of the layouts that the training commands read: COCO, Pascal VOC or YOLO with boxes, class folders, CSV
files of classes, or images with label maps. The exit status is 0 for a clean data set, 1 for a data set with problems,
and 2 if the data set cannot be found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.category_options import CategoryOptions
from backbones.common.files import write_json
from backbones.errors import UserError, require
from classification.options import ClassReadingOptions
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions

if TYPE_CHECKING:
    from tools.checks.findings import CheckReport


@dataclass
class CheckOptions:
    """Data set to check, and where to write the report.

    Args:
        data: folder with boxes in a layout that `--layout list` prints, with class folders (train/CLASS/*,
            val/CLASS/*), with images and a CSV file of classes, or with images and label maps; or a CSV or YAML file.
        layout: name of the layout of boxes; absent: recognised from the files; list prints all layouts.
        truth: what to check if a folder has both boxes and label maps, as those of VOC, LabelMe and Label Studio have;
            auto means boxes.
        annotations: annotation file of data that is not split, in place of `data`.
        images: folder of the images of `annotations`.
        train_annotations: COCO JSON of the training split, instead of the file in `data`.
        train_images: image folder of `train_annotations`.
        val_annotations: COCO JSON of the validation split, instead of the file in `data`.
        val_images: image folder of `val_annotations`.
        train_split: name of the training split.
        val_split: name of the validation split.
        ignore_index: number in label maps of pixels that do not count.
        allow_outside: allow file names in a JSON or CSV file that lead out of the image folder.
        decode: read and decode every image; otherwise only check that the files exist.
        workers: threads that read and decode; absent: a few more than CPU cores.
        json: JSON file for all problems.
        overwrite: replace an existing `json`.
        fix: folder to create, with a copy of the data in COCO's layout in which every problem with one right repair is
            repaired: boxes outside their image, duplicates, absent areas and sizes, flat polygons, file names of other
            systems, images that EXIF turns. For data with boxes.
    """

    data: str | None = None
    layout: str | None = None
    truth: Literal["auto", "boxes", "labels"] = "auto"
    annotations: str | None = None
    images: str | None = None
    train_annotations: str | None = None
    train_images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    ignore_index: int = 255
    allow_outside: bool = False
    decode: bool = True
    workers: int | None = None
    json: str | None = None
    overwrite: bool = False
    fix: str | None = None

    def __post_init__(self) -> None:
        if self.images in ("true", "false"):
            raise UserError(f"--images {self.images}: names a folder; pass --decode {self.images} instead")
        named = self.data or self.annotations or self.train_annotations or self.val_annotations
        if not named and self.layout != "list":
            raise UserError("--data: is missing; name a data set, or give --annotations and --images")
        for split in ("", "train_", "val_"):
            file, folder = getattr(self, f"{split}annotations"), getattr(self, f"{split}images")
            option_name = f"--{split}images".replace("_", "-")
            both = (file is None) == (folder is None)
            require(both, f"{split}annotations", file, f"must be given together with {option_name}")
        one = not (self.annotations and (self.data or self.train_annotations))
        require(
            one, "annotations", self.annotations, "takes the place of --data and --train-annotations; leave them out"
        )
        require(0 <= self.ignore_index <= 255, "ignore_index", self.ignore_index, "must be 0 to 255")
        require(self.workers is None or self.workers > 0, "workers", self.workers, "must be above 0")
        if self.json and Path(self.json).exists() and not self.overwrite:
            raise UserError(f"--json {self.json}: exists already; name another file or pass --overwrite")
        if self.json and not Path(self.json).absolute().parent.is_dir():
            raise UserError(f"--json {self.json}: its folder does not exist; create the folder first")
        if self.fix and Path(self.fix).exists():
            raise UserError(f"--fix {self.fix}: exists already; name a new folder, so that nothing is overwritten")

    def coco_files(self) -> dict[str, tuple[Path, Path]]:
        """Return the annotation file and image folder of each split that --train-... or --val-... options name."""
        files = {
            "train": (self.train_annotations or self.annotations, self.train_images or self.images),
            "val": (self.val_annotations, self.val_images),
        }
        return {split: (Path(file), Path(folder)) for split, (file, folder) in files.items() if file and folder}


@dataclass
class CheckGroups:
    """The option groups of the command."""

    check: CheckOptions
    reading: ClassReadingOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Check the data set; print and write the report."""
    _refuse_choice(sys.argv[1:] if argv is None else argv)
    groups = parse(CheckGroups, description=__doc__, argv=argv)
    options = groups.check
    groups.plugins.load()
    report = check(options, groups.reading)
    print(report.table())
    if options.json:
        write_json(Path(options.json), report.as_json())
    if options.fix:
        print(fix(options, Path(options.fix)))
    elif report.wrong:
        raise SystemExit(1)


def _refuse_choice(argv: Sequence[str]) -> None:
    """Refuse the options that choose classes: a check covers every class of the data."""
    known = {"--" + each.name.replace("_", "-") for each in fields(CategoryOptions)}
    given = (word.partition("=")[0].replace("_", "-") for word in argv)
    if option := next((name for name in given if name in known), None):
        raise UserError(
            f"{option}: is for training and convert_data.py; a check covers every class of the data, so leave it out"
        )


def fix(options: CheckOptions, output: Path) -> str:
    """Write a repaired copy of the data set; return what was repaired. The errors are those of `write_repaired`."""
    from tools.checks.dataset import other_splits, read_truths
    from tools.checks.repair import write_repaired

    root, splits = Path(options.data) if options.data else None, (options.train_split, options.val_split)
    truths = read_truths(root, coco_files=options.coco_files(), splits=splits, layout=options.layout)
    others = other_splits(root, splits, options.layout) if root is not None else []
    return write_repaired(truths, output).describe(output, others)


def check(options: CheckOptions, reading: ClassReadingOptions | None = None) -> CheckReport:
    """Return all problems of the data set. The errors are those of `check_dataset`."""
    from detection.data.folders import list_layouts
    from tools.checks.dataset import check_dataset  # imports torch

    list_layouts(options.layout)
    return check_dataset(
        Path(options.data) if options.data else None,
        coco_files=options.coco_files(),
        splits=(options.train_split, options.val_split),
        layout=options.layout,
        truth=options.truth,
        ignore_index=options.ignore_index,
        reading=reading,
        allow_outside=options.allow_outside,
        decode=options.decode,
        workers=options.workers,
    )


if __name__ == "__main__":
    run(main)
