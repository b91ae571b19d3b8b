"""Convert a data set of boxes or of label maps from one layout to another, such as from CVAT's to COCO's.

    python tools/convert_data.py --data VOC2007 --to coco --output voc-as-coco --train-split trainval --val-split test
    python tools/convert_data.py --data coco --to yolo --output coco-as-yolo
    python tools/convert_data.py --data my-yolo --to voc --output my-voc --val-split null
    python tools/convert_data.py --annotations result.json --images photos --to yolo --output as-yolo
    python tools/convert_data.py --data camvid --truth labels --ignore-index 11 --to cvat --output camvid-cvat

`--layout list` prints the layouts that are read. The splits of the new folder are called train, val and test.
Images are hard-linked if possible, else copied. Whatever both layouts can represent is the same after a conversion
there and back.
"""

from __future__ import annotations

import shlex
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

WrittenLayout = Literal[
    "coco", "coco-roboflow", "voc", "yolo", "cvat", "labelme", "label-studio", "via", "open-images", "folders", "beside"
]


@dataclass
class ConvertOptions:
    """Data set to convert, and where to write it.

    Args:
        output: folder to create.
        to: the layout to write. Label maps can be written as folders, beside (their images), voc, cvat, coco, labelme
            and label-studio; boxes in all layouts but folders and beside.
        truth: what to convert if a folder has both boxes and label maps, as VOC's, COCO's, LabelMe's and Label Studio's
            have; auto means boxes.
        ignore_index: number in label maps of pixels that do not count.
        data: folder of the data set, or YOLO's YAML file.
        layout: name of the layout of `data`; absent: recognised from the files; list prints all layouts.
        annotations: annotation file of data that is not split, in place of `data`.
        images: folder of the images of `annotations`.
        train_split: split of `data` that becomes train; auto: the split of this name, if there is one; null: none.
        val_split: split of `data` that becomes val; auto and null as above.
        test_split: split of `data` that becomes test; auto and null as above.
        masks: write the masks of objects wherever the new layout can hold them (VOC's SegmentationObject, YOLO's
            polygons, all layouts of tools but Open Images), even if its boxes are then those around the masks.
        bad_boxes: whether boxes that the new layout cannot represent are an error or are left out.
    """

    output: str | None = None
    to: WrittenLayout | None = None
    truth: Literal["auto", "boxes", "labels"] = "auto"
    ignore_index: int = 255
    data: str | None = None
    layout: str | None = None
    annotations: str | None = None
    images: str | None = None
    train_split: str | None = "auto"
    val_split: str | None = "auto"
    test_split: str | None = "auto"
    masks: bool = False
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
        for name in ("layout", "masks", "annotations"):
            given = self.truth == "labels" and getattr(self, name)
            require(not given, name, getattr(self, name), "belongs to boxes; leave it out with --truth labels")
        require(0 <= self.ignore_index <= 255, "ignore_index", self.ignore_index, "must be 0 to 255")

    def splits(self) -> dict[str, str | None]:
        """Return the split of `data` for each split of the new folder."""
        return {"train": self.train_split, "val": self.val_split, "test": self.test_split}


@dataclass
class ConvertGroups:
    """The option groups of the command."""

    convert: ConvertOptions
    plugins: PluginOptions
    categories: CategoryOptions = field(default_factory=CategoryOptions)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert the data set and print the number of images, and of boxes, of each split."""
    groups = parse(ConvertGroups, description=__doc__, argv=argv)
    options = groups.convert

    from detection.data.folders import list_layouts  # imports torch

    groups.plugins.load()
    list_layouts(options.layout)
    is_labels = _is_labels(options)
    lines = _convert_labels(options, groups.categories) if is_labels else _convert_boxes(options, groups.categories)
    print("\n".join(lines))
    command = f"tools/train_{'seg' if is_labels else 'det'}.py --data {shlex.quote(str(options.output))}"
    division = "" if any(line.startswith("val: ") for line in lines) else " --val-fraction 0.2"
    print(f"{options.output}: train on it with {command}{division}")


def _is_labels(options: ConvertOptions) -> bool:
    """Return whether to convert label maps: the options say so, or the folder has no boxes but label maps."""
    from detection.data.folders import has_layout
    from segmentation.data.folders import home_of, painted_reader
    from segmentation.data.layout import is_label_folder

    root = Path(options.data or "")
    if options.truth != "auto" or options.data is None or options.layout is not None:
        require(options.truth != "labels" or options.data, "truth", options.truth, "needs --data")
        return options.truth == "labels"
    if has_layout(root):
        return False
    home = home_of(root)
    return is_label_folder(home) or painted_reader(home) is not None


def _convert_labels(options: ConvertOptions, categories: CategoryOptions) -> list[str]:
    """Convert label maps; return a line for each split."""
    from segmentation.data.convert import convert_maps, existing_splits
    from segmentation.options import SegmentationDataOptions

    source = Path(options.data or "")
    splits, others = existing_splits(source, options.splits())
    _print_others(source, others)
    data = SegmentationDataOptions(
        ignore_index=options.ignore_index,
        classes=categories.classes or "all",
        drop_classes=categories.drop_classes,
        merge_classes=categories.merge_classes,
        rename=categories.rename,
        keep_unused=categories.keep_unused,
    )
    return convert_maps(
        source,
        Path(options.output or ""),
        to=options.to or "folders",
        splits=splits,
        options=data,
    )


def _convert_boxes(options: ConvertOptions, categories: CategoryOptions) -> list[str]:
    """Convert boxes; return a line for each split."""
    from detection.data.convert import chosen_splits, convert

    source, splits = Path(options.data or options.annotations or ""), {"train": "train"}
    if options.annotations is None:
        splits, others = chosen_splits(source, options.splits(), layout=options.layout)
        _print_others(source, others)
    return convert(
        source,
        Path(options.output or ""),
        to=options.to or "coco",
        layout=options.layout,
        splits=splits,
        images=None if options.images is None else Path(options.images),
        bad_boxes=options.bad_boxes,
        categories=categories,
        masks=options.masks,
    )


def _print_others(source: Path, others: Sequence[str]) -> None:
    """Print the names of the splits that are not converted."""
    if others:
        print(f"splits of {source} that are not converted: {', '.join(others)}; name them with --train-split etc.")


if __name__ == "__main__":
    run(main)
