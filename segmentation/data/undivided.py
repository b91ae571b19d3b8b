"""Data sets that are not divided into splits."""

from __future__ import annotations

from pathlib import Path

from backbones.errors import UserError

ALL = "all"  # the only split of a data set that is not divided; it is also called "train"


def one_split(root: Path, split: str) -> Path:
    """Return the folder of a data set that is not divided into splits.

    Raises:
        UserError: another split than "train" or "all" is wanted.
    """
    if split in (ALL, "train"):
        return root
    raise UserError(
        f"--data {root}: has no split {split}, because it is not divided into splits; divide it with --val-fraction, "
        "or name other splits with --train-split and --val-split"
    )
