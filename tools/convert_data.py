"""Convert a detection set between the layouts of COCO, Pascal VOC and YOLO.

    python tools/convert_data.py --data VOC2007 --to coco --output voc-as-coco --train-split trainval --val-split test
    python tools/convert_data.py --data coco --to yolo --output coco-as-yolo
    python tools/convert_data.py --data my-yolo --to voc --output my-voc --val-split null

`tools/train_det.py --data` reads all three. The new folder's splits are train, val and test, whatever they were called.
Images are hard-linked where possible, else copied. What both layouts can hold comes back unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # tools/ itself must not shadow other modules

from backbones.errors import UserError
from tools.cli.ending import run
from tools.cli.parsing import parse

if TYPE_CHECKING:
    from detection.data.truth import Truth


@dataclass
class ConvertOptions:
    """What to convert.

    Args:
        data: folder in the layout of COCO, Pascal VOC or YOLO.
        output: folder to make.
        to: the layout to write.
        train_split: split of `data` to call train.
        val_split: split of `data` to call val; null for none.
        test_split: split of `data` to call test; absent: none.
        bad_boxes: boxes that the new layout cannot hold are an error, or dropped.
    """

    data: str
    output: str
    to: Literal["coco", "voc", "yolo"]
    train_split: str | None = "train"
    val_split: str | None = "val"
    test_split: str | None = None
    bad_boxes: Literal["error", "drop"] = "error"


@dataclass
class Options:
    """The option groups of this script."""

    convert: ConvertOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Convert, and say what was found."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv).convert
    splits = {name: getattr(options, f"{name}_split") for name in ("train", "val", "test")}
    for line in convert(
        Path(options.data),
        Path(options.output),
        to=options.to,
        splits={name: split for name, split in splits.items() if split is not None},
        bad_boxes=options.bad_boxes,
    ):
        print(line)
    print(f"{options.output}: train on it with tools/train_det.py --data {options.output}")


def convert(
    source: Path,
    output: Path,
    *,
    to: Literal["coco", "voc", "yolo"],
    splits: dict[str, str],
    bad_boxes: Literal["error", "drop"] = "error",
) -> list[str]:
    """Write a data set in another layout.

    Args:
        splits: names of the source's splits by those of the new ones.

    Returns:
        Lines that say what each split has, and what the new layout cannot hold.

    Raises:
        UserError: where something of the source is malformed or missing, the new layout cannot hold it, or `output`
            exists.
    """
    from backbones.common.files import create_once
    from detection.data.writers import WRITERS, describe

    if output.exists():
        raise UserError(f"--output {output}: exists already; name a new folder")
    if not splits:
        raise UserError("--train-split null: name at least one split")
    truths = {name: _read(source, split, to) for name, split in splits.items()}
    first = next(iter(truths.values()))
    if to == "voc" or first.layout == "voc":
        _refuse_shared(truths)
    _refuse_other_classes(truths)
    lines: list[str] = []

    def write(folder: Path) -> None:
        for name, truth in truths.items():
            lost = WRITERS[to](folder, name, truth, drop=bad_boxes == "drop")
            lines.append(describe(name, truth, lost))

    create_once(output, is_complete=output.exists, write=write)
    return lines


def _read(source: Path, split: str, to: str) -> Truth:
    """A split, checked as in training, but that boxes without area pass."""
    from detection.data.annotations import CocoAnnotations
    from detection.data.folders import known_layout, open_split

    if known_layout(source) == to:
        raise UserError(f"--to {to}: {source} is in that layout already")
    truth = open_split(source, split)
    CocoAnnotations.of(truth, bad_boxes="drop")
    return truth


def _refuse_shared(truths: dict[str, Truth]) -> None:
    """Refuse two splits of one image: VOC has one folder for all, so that it would be the same image twice."""
    owners: dict[str, str] = {}
    for name, truth in truths.items():
        for image in truth.data["images"]:
            file = image["file_name"]
            if file in owners:
                raise UserError(
                    f"{truth.path}: {file} is in {owners[file]} as well as in {name}, and VOC has one folder for the "
                    "images of all splits; name other splits, or rename it"
                )
            owners[file] = name


def _refuse_other_classes(truths: dict[str, Truth]) -> None:
    """Refuse splits of other categories: they are written once for all."""
    from detection.data.annotations import CategoryMap

    (here, first), *others = ((t.path, CategoryMap.from_json(t.data["categories"], t.path)) for t in truths.values())
    for there, other in others:
        first.require_same(other, here=str(here), there=str(there))


if __name__ == "__main__":
    run(main)
