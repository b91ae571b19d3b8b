"""Options that split data without a validation split. This module imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import re
from dataclasses import dataclass

from backbones.errors import require

NEAR_EQUAL = "near-equal"  # value of --group-by: groups of images that look nearly the same


@dataclass(frozen=True)
class SplitOptions:
    """Options that split the training images of data without a validation split.

    The parts show each class, and images without objects, in the same proportion, and every class is trained on. The
    split depends on file names, labels and these options only. The run folder holds it in splits.json.

    Args:
        val_fraction: fraction of the images to validate on, such as 0.2; the others are trained on.
        folds: for cross-validation, the number of parts of equal size; one part is validated, the others are trained
            on.
        fold: which part is validated, from 0 to folds - 1.
        group_by: keep the images of a group on one side of the split, such as the frames of a film. A regular
            expression finds the group in the file name relative to its folder (its first group, or else the whole
            match); near-equal groups the images that look nearly the same.
        split_seed: seed of the split. It differs from --seed, so that runs of several seeds validate the same images.
    """

    val_fraction: float | None = None
    folds: int | None = None
    fold: int = 0
    group_by: str | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        fraction = self.val_fraction is None or 0 < self.val_fraction < 1
        require(fraction, "val_fraction", self.val_fraction, "must be above 0 and below 1, such as 0.2")
        require(self.folds is None or self.folds >= 2, "folds", self.folds, "must be 2 or above, such as 5")
        single = self.val_fraction is None or self.folds is None
        require(single, "folds", self.folds, "cannot be combined with --val-fraction; leave one of them out")
        if self.folds is None:
            require(self.fold == 0, "fold", self.fold, "needs --folds, the number of parts")
        else:
            require(0 <= self.fold < self.folds, "fold", self.fold, f"must be 0 to {self.folds - 1}")
        require(self.split_seed >= 0, "split_seed", self.split_seed, "must be 0 or above")
        asked = self.asked or not (self.group_by or self.split_seed)
        name = "group_by" if self.group_by else "split_seed"
        require(asked, name, getattr(self, name), "has no effect without --val-fraction or --folds; give one of them")
        if self.group_by and self.group_by != NEAR_EQUAL:
            require(_compiles(self.group_by), "group_by", self.group_by, f"is not a regular expression or {NEAR_EQUAL}")

    @property
    def asked(self) -> bool:
        """Whether the training images are to be split."""
        return self.val_fraction is not None or self.folds is not None

    @property
    def option(self) -> str:
        """Return the option that asks for a split, with its value, for messages; "" if there is none."""
        if self.folds is not None:
            return f"--folds {self.folds}"
        return f"--val-fraction {self.val_fraction}" if self.asked else ""


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
