"""Converts a data set of label maps from one layout to another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from backbones.common.datasets import existing_split
from backbones.common.files import create_once
from backbones.errors import UserError, counted, first_names
from segmentation.data.dataset import LabelSource
from segmentation.data.folders import has_split, home_of, layout_name, open_source, split_names
from segmentation.data.map_files import write_beside, write_cvat, write_folders, write_voc
from segmentation.data.region_files import write_coco, write_label_studio, write_labelme
from segmentation.data.unused import keep_classes, used_classes
from segmentation.data.writing import Writer, Writing
from segmentation.options import SegmentationDataOptions

MapLayout = Literal["folders", "beside", "voc", "cvat", "coco", "labelme", "label-studio"]
WRITERS: dict[MapLayout, Writer] = {
    "folders": write_folders,
    "beside": write_beside,
    "voc": write_voc,
    "cvat": write_cvat,
    "coco": write_coco,
    "labelme": write_labelme,
    "label-studio": write_label_studio,
}
ONE_FOLDER = ("voc", "cvat")  # layouts that keep the images of all splits in one folder


def convert_maps(
    source: Path,
    output: Path,
    *,
    to: str,
    splits: Mapping[str, str],
    options: SegmentationDataOptions,
) -> list[str]:
    """Write a data set of label maps in another layout.

    Args:
        source: folder of the data set.
        output: folder to create.
        to: the layout to write.
        splits: name of the split of `source` for each split of `output`.
        options: how to read the data, and the classes to merge, rename and choose. If there are such changes, classes
            without a pixel in any split are dropped, except the background, unless `options.keep_unused`.

    Returns:
        For each split a line with the number of images and what the new layout cannot hold; and a line on the classes
        that were dropped, if there are any.

    Raises:
        UserError: the source is malformed or has the layout already, the new layout cannot hold it, or `output` exists.
    """
    layout = next((name for name in WRITERS if name == to), None)
    if layout is None:
        raise UserError(f"--to {to}: is no layout of label maps; name one of {', '.join(get_args(MapLayout))}")
    if output.exists():
        raise UserError(f"--output {output}: exists already; name a new folder")
    if layout_name(home_of(source)) == to:
        raise UserError(f"--to {to}: {source} already has this layout; name another layout")
    sources = {name: _open(source, split, options) for name, split in splits.items()}
    unused: list[str] = []
    if options.categories().changes_classes and not options.keep_unused:
        unused, sources = _without_unused(sources)
    if layout in ONE_FOLDER:
        _refuse_shared_images(sources)
    lines: list[str] = []

    def write(folder: Path) -> None:
        for name, each in sources.items():
            folder.mkdir(parents=True, exist_ok=True)
            lost = WRITERS[layout](Writing(folder, name, each))
            notes = "".join(f"; {what}: {count}" for what, count in each.notes.items())
            missing = f"; the new layout cannot hold {', '.join(sorted(lost))}" if lost else ""
            lines.append(f"{name}: {counted(len(each), 'image')}{notes}{missing}")
        unused.extend(_lost_classes(folder, next(iter(sources.items()))))

    create_once(output, is_complete=output.exists, write=write)
    return [*lines, f"left out: classes without pixels ({first_names(unused)})"] if unused else lines


def existing_splits(source: Path, wanted: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    """Return the splits to convert, by their names in the new folder, and the names of the other splits.

    Args:
        wanted: for each split of the new folder the split of `source`, "auto" for the split of the same name if there
            is one, or None for no split.

    Raises:
        UserError: there is no split to convert.
    """
    found = {name: name if split == "auto" else split for name, split in wanted.items() if split is not None}
    found = {name: split for name, split in found.items() if wanted[name] != "auto" or has_split(source, split)}
    if not found:
        raise UserError(f"--data {source}: has no split train, val or test; name one with --train-split")
    names = split_names(source)
    taken = {_named(split, names) for split in found.values()}
    return found, [name for name in names if name not in taken]


def _named(split: str, names: Sequence[str]) -> str:
    """Return the name that a split has among those of the data set; a file of COCO may name a year."""
    name = existing_split(split, names.__contains__)
    return next(
        (each for each in names if each == name or re.fullmatch(rf"{re.escape(name)}[-_]?(19|20)\d\d", each)), name
    )


def _open(source: Path, split: str, options: SegmentationDataOptions) -> LabelSource:
    return open_source(source, "train", replace(options, train_split=split))


def _lost_classes(folder: Path, split: tuple[str, LabelSource]) -> list[str]:
    """Return the classes that the data set in a folder has lost, because its layout lists no class without pixels."""
    name, source = split
    found = open_source(folder, "train", SegmentationDataOptions(train_split=name)).classes.names
    return [each for each in source.classes.names[int(0 not in source.classes.coloured) :] if each not in found]


def _without_unused(sources: Mapping[str, LabelSource]) -> tuple[list[str], dict[str, LabelSource]]:
    """Drop the classes that have no pixel in any split; return their names and the sources without them."""
    names, used = next(iter(sources.values())).classes.names, used_classes(list(sources.values()))
    if len(used) == 1:
        return [], dict(sources)
    unused = [name for number, name in enumerate(names) if number not in used]
    return unused, {name: keep_classes(source, used) for name, source in sources.items()}


def _refuse_shared_images(sources: Mapping[str, LabelSource]) -> None:
    """Refuse splits with the same image name."""
    owners: dict[str, str] = {}
    for split, names in ((name, _stems(source)) for name, source in sources.items()):
        for name in names:
            if name in owners:
                raise UserError(
                    f"{sources[split].where}: {name} occurs in both {owners[name]} and {split}, but the new layout "
                    "keeps the images of all splits in one folder; rename one of the image files"
                )
            owners[name] = split


def _stems(source: LabelSource) -> Sequence[str]:
    return [image.stem for image in Writing(Path(), "", source).images()]
