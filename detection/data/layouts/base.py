"""Interface of a layout of detection data, and the registry of all layouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbones.common.registry import Registry
from detection.data.truth import ProblemHandler, Truth, raise_problem

Sign = tuple[str, bool]  # something that a folder of a layout holds, and whether the folder at hand holds it


@dataclass(frozen=True)
class Reading:
    """Rules of a reader for missing images, unusable boxes and malformed records.

    Attributes:
        absent_images: whether a missing image file is an error.
        bad_boxes: whether a box far outside its image is a problem, or left out and counted (YOLO;
            `CocoAnnotations.of` does it for other layouts).
        on_problem: what to do about a malformed record. If it returns, the record is left out.
        masks: also read masks that lie in files of their own (VOC's SegmentationObject).
    """

    absent_images: Literal["error", "keep"] = "error"
    bad_boxes: Literal["error", "drop"] = "error"
    on_problem: ProblemHandler = raise_problem
    masks: bool = False


class Layout(ABC):
    """A layout of detection data: how to recognise it, which splits a data set has, and how to read a split.

    Attributes:
        name: the name in the registry, which `--layout` takes.
        form: the files and folders of the layout, for messages.
    """

    name: str
    form: str

    @abstractmethod
    def signs(self, root: Path) -> Iterator[Sign]:
        """Yield what a folder of this layout holds, and whether `root` holds it; cheap tests come first."""

    def matches(self, root: Path) -> bool:
        """Return whether a folder has this layout."""
        return all(found for _, found in self.signs(root))

    @abstractmethod
    def splits(self, root: Path) -> list[str]:
        """Return the names of the splits of a data set, sorted. A data set that is not split is one split, "train"."""

    def has_split(self, root: Path, name: str) -> bool:
        """Return whether a data set has a split of a name."""
        return name in self.splits(root)

    @abstractmethod
    def read(self, root: Path, split: str, how: Reading) -> Truth:
        """Read the records of a split, which `CocoAnnotations.of` checks afterwards.

        Raises:
            UserError: there is no such split, a file cannot be read, or `how.on_problem` raises the error of a record.
        """


class InnerLayout(Layout):
    """The layout of a data set that lies in the only folder of the folder that the user named.

    Args:
        layout: layout of the data set.
        home: folder of the data set.
    """

    def __init__(self, layout: Layout, home: Path) -> None:
        self.name, self.form, self._layout, self._home = layout.name, layout.form, layout, home

    def signs(self, root: Path) -> Iterator[Sign]:
        return self._layout.signs(self._home)

    def splits(self, root: Path) -> list[str]:
        return self._layout.splits(self._home)

    def has_split(self, root: Path, name: str) -> bool:
        return self._layout.has_split(self._home, name)

    def read(self, root: Path, split: str, how: Reading) -> Truth:
        truth = self._layout.read(self._home, split, how)
        truth.notes[f"folder {self._home}, which is read in place of {root}"] += 1
        return truth


LAYOUTS: Registry[Callable[[], Layout]] = Registry("layout")
