"""The training and validation splits of a run, and a check that weights were trained on the same classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from backbones.common.data_split import DataSplit
from backbones.common.decoded import DecodedImages
from backbones.common.files import JsonObject
from backbones.common.step_lists import is_file, read_steps
from backbones.errors import UserError
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve


class Split(Protocol):
    """Data set of one split (training or validation).

    Attributes:
        cache: keeps decoded images; None if each is decoded every time.
    """

    cache: DecodedImages | None

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return a hash of the images and their annotations."""


SplitType = TypeVar("SplitType", bound=Split)


@dataclass(frozen=True)
class Splits(Generic[SplitType]):
    """Training and validation splits of a run.

    Attributes:
        train: None with `--eval-only`.
        split: how the training images were split, if the data have no validation split.
        chosen: which training images were chosen, for the plan; "" for all.
        choosable: number of training images without a choice; 0 with `--eval-only`.
    """

    train: SplitType | None
    val: SplitType
    split: DataSplit | None = None
    chosen: str = ""
    choosable: int = 0

    @property
    def first(self) -> SplitType:
        """Return the training split, or the validation split if there is no training."""
        return self.val if self.train is None else self.train

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of each split, so that `--resume` can refuse other images."""
        splits = {"train": self.train, "val": self.val}
        return {name: split.fingerprint() for name, split in splits.items() if split is not None}

    def keep_decoded(self, cache: DecodedImages | None) -> None:
        """Read the images of both splits through a cache."""
        for split in (self.train, self.val):
            if split is not None:
                split.cache = cache


def augment_entry(augment: str, *, eval_only: bool) -> JsonObject:
    """Return the steps of an augmentation that a file lists, for the header of weights and for `--resume`; or {}."""
    if eval_only or not is_file(augment):
        return {}
    return {"augment": [list(step) for step in read_steps(Path(augment))]}


def bits_entry(bits: int | None) -> dict[str, int]:
    """Return the entry `bits` of `meta["input"]`: how many bits of 16-bit images hold values; {} if not known.

    If it is not known, all 16 bits count, and images of small values are refused.
    """
    return {} if bits is None else {"bits": bits}


def bits_row(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of the plan that says how 16-bit images are read; {} if the number of bits is not known."""
    bits = meta["input"].get("bits")
    return {} if bits is None else {"16-bit images": f"values of {bits} bits: 0 to {2**bits - 1} become 0 to 255"}


def classes_trained_on(weights: str) -> tuple[str, ...] | None:
    """Return the class names that the header of a weights file records; None if it records none."""
    names = read_meta(resolve(weights)).get("classes")
    return None if names is None else tuple(names)


def require_trained_on(weights: str, classes: Sequence[str]) -> None:
    """Refuse weights that were trained on other classes. The order does not matter: loading matches names.

    Raises:
        UserError: the classes differ; the text names the first one that does.
    """
    trained_on = classes_trained_on(weights)
    if trained_on is not None and sorted(trained_on) != sorted(classes):
        before, now = next((a, b) for a, b in zip(sorted(trained_on), sorted(classes), strict=True) if a != b)
        raise UserError(
            f"--weights {weights}: was trained on other classes than the data's ({before}, not {now}); use the data "
            "that it was trained on"
        )
