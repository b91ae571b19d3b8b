"""Decides the split of a run whose data have no validation split: from its options, or from an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from backbones.common.data_split import SPLITS_FILE, DataSplit, split_images
from backbones.common.near_equal import hash_files
from backbones.common.split_options import SplitOptions
from backbones.common.stratified import ItemClasses
from backbones.errors import UserError
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from tools.engine.bad_images import BadImages
from tools.engine.options import TaskOptions
from tools.processes import distributed


@dataclass(frozen=True)
class UndividedImages:
    """Images of which some are to be trained on, and the others validated.

    Attributes:
        names: file names, relative to one folder.
        files: paths of the files.
        class_names: by number.
        shown: returns the classes that each image shows. All processes call it.
    """

    names: Sequence[str]
    files: Sequence[Path]
    class_names: Sequence[str]
    shown: Callable[[], ItemClasses]


class ExistingSplits(TypedDict):
    """The splits that a data set has.

    Attributes:
        has_train, has_val: whether the data have a training split and a validation split.
        where: name of the data, for messages.
        how: options that name a validation split, for messages.
    """

    has_train: bool
    has_val: bool
    where: str
    how: str


def wanted_split(options: TaskOptions, *, has_train: bool, has_val: bool, where: str, how: str) -> SplitOptions | None:
    """Return how to split the training images; None if the data have a validation split.

    An evaluation without these options splits as the weights record it.

    The arguments besides `options` are those of `ExistingSplits`.

    Raises:
        UserError: the data have a validation split, but options of a split are given; or the data have neither.
    """
    asked, evaluates = options.split, options.run.eval_only
    if has_val:
        if asked.asked and not evaluates:
            raise UserError(
                f"{asked.option}: {where} has a validation split of its own; leave {asked.option} out, or name other "
                "data"
            )
        return None
    recorded = read_meta(resolve(options.model.weights)).get("split") if evaluates and not asked.asked else None
    if recorded:
        return SplitOptions(**recorded)
    if has_train and not asked.asked:
        named = "" if options.data.val_split == "val" else f" {options.data.val_split}"
        raise UserError(
            f"{where}: has no validation split{named}; name {how}, or split the training images with --val-fraction 0.2"
        )
    return asked if asked.asked else None


def decide_split(wanted: SplitOptions, options: TaskOptions, images: UndividedImages, bad: BadImages) -> DataSplit:
    """Return the split of a run. All processes call this and get the same split.

    A resumed run, and the evaluation of a run's weights, use the splits.json of that run if its options are the same.

    Raises:
        UserError: the recorded images are not in the data, or no image is left to validate on.
    """
    recorded = distributed.on_main(lambda: _recorded(wanted, _record_files(options, bad.record.parent)))
    if recorded is not None:
        return _checked(recorded, images.names)
    shown = images.shown()
    return distributed.on_main(
        lambda: split_images(
            wanted,
            images.names,
            shown,
            class_names=images.class_names,
            hashes=lambda: hash_files(images.files, keep_bad=bad.skip),
        )
    )


def _record_files(options: TaskOptions, folder: Path) -> list[Path]:
    """Return the files in which an earlier start of this run, or the run of its weights, may have recorded a split."""
    folders = [folder]
    weights = resolve(options.model.weights) if options.run.eval_only and not options.run.resume else None
    if weights and Path(weights).is_file():
        folders += [Path(weights).parent, Path(weights).parent.parent]
    return [folder / SPLITS_FILE for folder in folders]


def _recorded(wanted: SplitOptions, files: Sequence[Path]) -> DataSplit | None:
    splits = (DataSplit.read(file) for file in files if file.is_file())
    return next((split for split in splits if split.options == wanted), None)


def _checked(split: DataSplit, names: Sequence[str]) -> DataSplit:
    """Return a recorded split with a note on images that it does not know. Validation images must exist."""
    split.rows(names, "val")
    new = len(set(names).difference(split.train, split.val))
    note = f"new images left out: {new}"
    return replace(split, notes=(*split.notes, note)) if new else split
