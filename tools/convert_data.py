"""Convert a detection data set between the layouts of COCO, Pascal VOC and YOLO.

    python tools/convert_data.py --data VOC2007 --to coco --output voc-as-coco --train-split trainval --val-split test
    python tools/convert_data.py --data coco --to yolo --output coco-as-yolo
    python tools/convert_data.py --data my-yolo --to voc --output my-voc --val-split null

`tools/train_det.py --data` reads all three layouts. The splits of the new folder are called train, val and test.
Images are hard-linked if possible, else copied. Whatever both layouts can represent is the same after a conversion
there and back.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions


@dataclass
class ConvertOptions:
    """Data set to convert, and where to write it.

    Args:
        data: folder in the layout of COCO, Pascal VOC or YOLO, or in a layout that a plugin registers.
        output: folder to create.
        to: the layout to write.
        layout: name of the layout of `data`; absent: recognised from the files.
        train_split: split of `data` that becomes train; null for no such split.
        val_split: split of `data` that becomes val; null for no such split.
        test_split: split of `data` that becomes test; absent: no such split.
        bad_boxes: whether boxes that the new layout cannot represent are an error or are left out.
    """

    data: str
    output: str
    to: Literal["coco", "voc", "yolo"]
    layout: str | None = None
    train_split: str | None = "train"
    val_split: str | None = "val"
    test_split: str | None = None
    bad_boxes: Literal["error", "drop"] = "error"


@dataclass
class ConvertGroups:
    """The option groups of the command."""

    convert: ConvertOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Convert the data set and print the number of images and boxes of each split."""
    groups = parse(ConvertGroups, description=__doc__.splitlines()[0], argv=argv)
    options = groups.convert

    from detection.data.convert import convert  # imports torch

    groups.plugins.load()
    splits = {"train": options.train_split, "val": options.val_split, "test": options.test_split}
    for line in convert(
        Path(options.data),
        Path(options.output),
        to=options.to,
        layout=options.layout,
        splits={name: split for name, split in splits.items() if split is not None},
        bad_boxes=options.bad_boxes,
    ):
        print(line)
    print(f"{options.output}: train on it with tools/train_det.py --data {options.output}")


if __name__ == "__main__":
    run(main)
