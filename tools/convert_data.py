"""Convert a detection data set from one layout to another, such as from CVAT's to COCO's.

    python tools/convert_data.py --data VOC2007 --to coco --output voc-as-coco --train-split trainval --val-split test
    python tools/convert_data.py --data coco --to yolo --output coco-as-yolo
    python tools/convert_data.py --data my-yolo --to voc --output my-voc --val-split null
    python tools/convert_data.py --annotations result.json --images photos --to yolo --output as-yolo

`--layout list` prints the layouts that are read. The splits of the new folder are called train, val and test.
Images are hard-linked if possible, else copied. Whatever both layouts can represent is the same after a conversion
there and back.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.category_options import CategoryOptions
from backbones.errors import require
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions

WritableLayout = Literal[
    "coco", "coco-roboflow", "voc", "yolo", "cvat", "labelme", "label-studio", "via", "open-images"
]


@dataclass
class ConvertOptions:
    """Data set to convert, and where to write it.

    Args:
        output: folder to create.
        to: the layout to write.
        data: folder of the data set, or YOLO's YAML file.
        layout: name of the layout of `data`; absent: recognised from the files; list prints all layouts.
        annotations: annotation file of data that is not split, in place of `data`.
        images: folder of the images of `annotations`.
        train_split: split of `data` that becomes train; auto: the split of this name, if there is one; null: none.
        val_split: split of `data` that becomes val; auto and null as above.
        test_split: split of `data` that becomes test; auto and null as above.
        bad_boxes: whether boxes that the new layout cannot represent are an error or are left out.
    """

    output: str | None = None
    to: WritableLayout | None = None
    data: str | None = None
    layout: str | None = None
    annotations: str | None = None
    images: str | None = None
    train_split: str | None = "auto"
    val_split: str | None = "auto"
    test_split: str | None = "auto"
    bad_boxes: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        if self.layout == "list":
            return
        require(self.output, "output", self.output, "name a folder to create")
        require(self.to, "to", self.to, "name the layout to write")
        both = (self.annotations is None) == (self.images is None)
        require(both, "annotations", self.annotations, "must be given together with --images")
        one = (self.data is None) != (self.annotations is None)
        require(one, "data", self.data, "name either --data, or --annotations and --images")


@dataclass
class ConvertGroups:
    """The option groups of the command."""

    convert: ConvertOptions
    plugins: PluginOptions
    categories: CategoryOptions = field(default_factory=CategoryOptions)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert the data set and print the number of images and boxes of each split."""
    groups = parse(ConvertGroups, description=__doc__.splitlines()[0], argv=argv)
    options = groups.convert

    from detection.data.convert import chosen_splits, convert  # imports torch
    from detection.data.folders import list_layouts

    groups.plugins.load()
    list_layouts(options.layout)
    source, splits = Path(options.data or options.annotations or ""), {"train": "train"}
    if options.annotations is None:
        wanted = {"train": options.train_split, "val": options.val_split, "test": options.test_split}
        splits, others = chosen_splits(source, wanted, layout=options.layout)
        if others:
            print(f"splits of {source} that are not converted: {', '.join(others)}; name them with --train-split etc.")
    for line in convert(
        source,
        Path(options.output or ""),
        to=options.to or "coco",
        layout=options.layout,
        splits=splits,
        images=None if options.images is None else Path(options.images),
        bad_boxes=options.bad_boxes,
        categories=groups.categories,
    ):
        print(line)
    print(f"{options.output}: train on it with tools/train_det.py --data {options.output}")


if __name__ == "__main__":
    run(main)
