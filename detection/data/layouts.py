"""Registry of data layouts that plugins add to those of COCO, Pascal VOC and YOLO.

    @detection.register_layout("csv", matches=lambda root: (root / "boxes.csv").is_file())
    def read_csv(root, split):
        return root / "images", {"images": [...], "annotations": [...], "categories": [...]}

Every command that opens detection data then reads the folders that `matches` accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backbones.common.registry import Registry
from detection.data.truth import Record, Truth


class LayoutReader(Protocol):
    """Interface of a function that reads a split of a data set."""

    def __call__(self, root: Path, split: str) -> tuple[Path, Record]:
        """Return the image folder, and `images`, `annotations` and `categories` as in COCO's instances files.

        The records are checked afterwards as those of COCO's files are.

        Raises:
            UserError: the split does not exist, or a file is malformed.
        """


@dataclass(frozen=True)
class RegisteredLayout:
    """A data layout from a plugin: its reader, and a function that tells whether a folder has the layout."""

    name: str
    matches: Callable[[Path], bool]
    read: LayoutReader

    def open(self, root: Path, split: str) -> Truth:
        """Read the records of a split with the registered reader."""
        folder, data = self.read(root, split)
        return Truth(self.name, root, folder, data)


REGISTERED: Registry[Callable[[], RegisteredLayout]] = Registry("layout")


def register_layout(name: str, *, matches: Callable[[Path], bool]) -> Callable[[LayoutReader], LayoutReader]:
    """Return a decorator that registers a `LayoutReader` under `name`.

    Args:
        name: name of the layout; coco, voc and yolo are taken.
        matches: whether a folder has this layout. Registered layouts are tried before the built-in ones.

    Raises:
        ValueError: the name is already registered.
    """
    if name in ("coco", "voc", "yolo"):
        raise ValueError(f"layout {name!r} is built in; choose another name")

    def add(read: LayoutReader) -> LayoutReader:
        layout = RegisteredLayout(name, matches, read)
        REGISTERED.register(name)(lambda: layout)
        return read

    return add


def registered_layout(root: Path) -> RegisteredLayout | None:
    """Return the registered layout that matches a folder, or None if none does."""
    layouts = (REGISTERED[name]() for name in REGISTERED.names())
    return next((layout for layout in layouts if layout.matches(root)), None)
