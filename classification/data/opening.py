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
        if guard is not None:
            raise UserError("--on-bad-image skip: does not work with tar shards; make new shards of images that decode")
        if divide is not None:
            raise UserError("--val-fraction, --folds: do not work with tar shards; make shards of both splits")
        if choose is not None:
            raise UserError("--fraction, --shots, --train-list: do not work with tar shards; use class folders")
        if folder_names != SPLIT_FOLDERS:
            raise UserError(
                "--train-split, --val-split: do not work with tar shards, whose splits are always train and "
                "val; leave both options out"
            )
        if bits not in (None, WHOLE_BITS):
            raise UserError(f"--bits {bits}: not for tar shards; convert the images to 8 bits")
        if reading not in (None, Reading()):
            raise UserError(
                f"--data {address}: holds tar shards, which name the class of each image themselves; leave out the "
                "options on columns, file names and several classes"
            )
        if categories.changes_classes:
            raise UserError(
                "--classes, --drop-classes, --merge-classes, --rename: do not work with tar shards; make new shards "
                "with these options"
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
