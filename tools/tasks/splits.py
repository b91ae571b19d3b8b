"""Training and validation split of detection and segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Split(Protocol):
    """A data set of one split."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return a hash of the images and their truth."""


SplitType = TypeVar("SplitType", bound=Split)


@dataclass(frozen=True)
class Splits(Generic[SplitType]):
    """The splits of a run.

    Attributes:
        train: None with `--eval-only`.
    """

    train: SplitType | None
    val: SplitType

    @property
    def first(self) -> SplitType:
        """Return the training split, or the validation split if there is no training."""
        return self.val if self.train is None else self.train

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of each split, so that `--resume` can refuse other images."""
        splits = {"train": self.train, "val": self.val}
        return {name: split.fingerprint() for name, split in splits.items() if split is not None}
