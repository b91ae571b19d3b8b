"""Opens classification data, in image files of any layout or in tar shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backbones.common.bits import WHOLE_BITS
from backbones.common.category_options import EVERY_CATEGORY, CategoryOptions
from backbones.errors import UserError
from classification.data.folder_source import FolderSource
from classification.data.names import ClassNames
from classification.data.reading import Reading
from classification.data.shard_index import holds_shards
from classification.data.shard_source import ShardSource
from classification.data.source import SPLIT_FOLDERS, BadImagePolicy, Choice, Divide, Split

# For each argument that tar shards do not support: the options of the command line that set it, and the way out.
_ONLY_FILES = {
    "guard": ("--on-bad-image skip", "make new shards of images that decode"),
    "divide": ("--val-fraction, --folds", "make shards of both splits"),
    "choose": ("--fraction, --shots, --train-list", "use class folders"),
    "folder_names": ("--train-split, --val-split", "leave both out; the splits of shards are always train and val"),
    "bits": ("--bits", "convert the images to 8 bits"),
    "reading": (
        "options on columns, file names and several classes",
        "leave them out; shards name the class of each image themselves",
    ),
    "categories": ("--classes, --drop-classes, --merge-classes, --rename", "make new shards with these options"),
}


def open_source(
    address: str,
    *,
    in_channels: int | None,
    sample: int = 0,
    choose: Choice | None = None,
    divide: Divide | None = None,
    buffer: int = 4096,
    splits: tuple[Split, ...],
    guard: BadImagePolicy | None = None,
    folder_names: Mapping[Split, str] = SPLIT_FOLDERS,
    classes: ClassNames | None = None,
    bits: int | None = None,
    reading: Reading | None = None,
    categories: CategoryOptions = EVERY_CATEGORY,
) -> FolderSource | ShardSource:
    """Open image files or tar shards. The arguments are those of `FolderSource` and `ShardSource`.

    Raises:
        UserError: there is no data set, or it is broken. Shards do not support `sample`, `choose` (the images are not
            known before they come) and `guard` (the image drawn for a bad one would depend on the number of
            processes).
    """
    if holds_shards(address):
        _require_nothing_for_files(
            address,
            {
                "guard": guard is not None,
                "divide": divide is not None,
                "choose": choose is not None,
                "folder_names": folder_names != SPLIT_FOLDERS,
                "bits": bits not in (None, WHOLE_BITS),
                "reading": reading not in (None, Reading()),
                "categories": categories.changes_classes,
            },
        )
        return ShardSource(address, in_channels=in_channels, sample=sample, buffer=buffer)
    return FolderSource(
        Path(address),
        in_channels=in_channels,
        sample=sample,
        choose=choose,
        divide=divide,
        splits=splits,
        guard=guard,
        folder_names=folder_names,
        classes=classes,
        bits=bits,
        reading=reading,
        categories=categories,
    )


def _require_nothing_for_files(address: str, given: Mapping[str, bool]) -> None:
    """Check that no argument is given that tar shards do not support.

    Raises:
        UserError: naming the options and the way out.
    """
    for name, is_given in given.items():
        if is_given:
            options, way_out = _ONLY_FILES[name]
            raise UserError(f"--data {address}: {options}: cannot be used with tar shards; {way_out}")
