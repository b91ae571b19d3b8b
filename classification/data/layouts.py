"""Layouts of classification data: those of this package, tried in a fixed order, and those that plugins register.

    @classification.register_layout("list", matches=lambda root: (root / "list.txt").is_file())
    def read_list(root, split):
        return root / "images", {"1.jpg": "ant", "2.jpg": "bee"}

Every command that opens classification data then reads the folders that `matches` accepts.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from backbones.common.datasets import leads_out
from backbones.common.listing import inner_folder, subfolders, visible
from backbones.common.registry import Registry
from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.common.values import is_file_name, is_text
from backbones.errors import UserError
from classification.data import csv_layout, folders, name_pattern
from classification.data.foreign import refuse_foreign
from classification.data.listing import ClassListing, Label, NoSplitError
from classification.data.reading import Reading

BUILT_IN = ("csv", "folders", "pattern", "shards")


class LayoutReader(Protocol):
    """Interface of a function that reads a split of a data set."""

    def __call__(self, root: Path, split: str) -> tuple[Path, Mapping[str, Label]]:
        """Return the image folder, and the class of each image file in it by its path relative to the folder.

        If an image may have several classes, the values are lists of classes; a list may be empty.

        Raises:
            UserError: the split does not exist, or a file is malformed.
        """


@dataclass(frozen=True)
class RegisteredLayout:
    """A layout from a plugin: its reader, and a function that tells whether a folder has the layout."""

    name: str
    matches: Callable[[Path], bool]
    read: LayoutReader

    def listing(self, root: Path, split: str) -> ClassListing:
        """Read a split with the registered reader and check its result."""
        folder, labels = self.read(root, split)
        where = f"{root} ({split}, layout {self.name})"
        for name, label in labels.items():
            each = (label,) if isinstance(label, str) else label
            if not is_file_name(name) or leads_out(name) or not all(map(is_text, each)):
                text = f"{name!r}: {label!r} is not a file of {folder} with its class"
                raise UserError(f"{where}: {text}; fix the plugin")
        multi_label = any(not isinstance(label, str) for label in labels.values())
        return ClassListing.of(folder, labels.items(), where=where, multi_label=multi_label)


REGISTERED: Registry[Callable[[], RegisteredLayout]] = Registry("layout")


def register_layout(name: str, *, matches: Callable[[Path], bool]) -> Callable[[LayoutReader], LayoutReader]:
    """Return a decorator that registers a `LayoutReader` under `name`.

    Args:
        name: name of the layout; csv, folders, pattern and shards are taken.
        matches: whether a folder has this layout. Registered layouts are tried before the built-in ones.

    Raises:
        ValueError: the name is already registered.
    """
    if name in BUILT_IN:
        raise ValueError(f"layout {name!r} is built in; choose another name")

    def add(read: LayoutReader) -> LayoutReader:
        layout = RegisteredLayout(name, matches, read)
        REGISTERED.register(name)(lambda: layout)
        return read

    return add


def read_split(data: Path, split: str, options: Reading | None = None) -> ClassListing:
    """List the images of a split with their classes. The layout is recognised from the content of the folder.

    Args:
        data: folder of the data set, or a CSV file.
        split: name of the split; for "val", other usual names of the validation split are accepted too.
        options: how to read; by default as without options.

    Raises:
        UserError: there is no such data set or split, or it belongs to another task, or a file is malformed.
    """
    options = options or Reading()
    listing = _listing(data, split, options)
    if listing.multi_label and options.multi_label is False:
        raise UserError(
            f"{listing.source}: images have several classes, which --multi-label false refuses; leave the option out"
        )
    return listing.as_multi_label() if options.multi_label else listing


def has_split(data: Path, split: str, options: Reading | None = None) -> bool:
    """Return whether a data set has a split. It counts as present if reading it ends with another error.

    Raises:
        UserError: the pattern of the names of files is no regular expression with a group.
    """
    if options is not None and options.label_from is not None:
        name_pattern.compiled(options.label_from)
    try:
        read_split(data, split, options)
    except NoSplitError:
        return False
    except UserError:
        return True
    return True


def _is_home(folder: Path, split: str, options: Reading) -> bool:
    """Return whether a folder is that of a data set, and not one that only holds the folder of the data set."""
    if options.label_from is not None:
        return True  # the images may lie in any folder
    known = any(REGISTERED[name]().matches(folder) for name in REGISTERED.names())
    named = any(each.name.lower() in folders.NO_CLASSES for each in subfolders(folder))
    images = any(file.suffix.lower() in PIXEL_SUFFIXES for file in visible(folder, "*"))
    tables = csv_layout.find(folder, split)
    # A single folder with images and a CSV file is no class, but holds the data set.
    below = subfolders(folder)
    classes = folders.is_flat(folder) and not (len(below) == 1 and csv_layout.find(below[0], split))
    return known or named or images or classes or bool(tables)


def _listing(data: Path, split: str, options: Reading) -> ClassListing:
    """Recognise the layout and read the split with it."""
    if data.is_file():
        if data.suffix.lower() == ".json":
            raise UserError(
                f"--data {data}: is a JSON file, which holds no classes of images; name a folder or a CSV file. "
                "tools/train_det.py reads annotations of boxes with --annotations"
            )
        return csv_layout.read(data.parent, [data], split, options)
    if not data.is_dir():
        raise UserError(f"--data {data}: no such folder; check the path")
    data = inner_folder(data, lambda folder: _is_home(folder, split, options))
    layouts = (REGISTERED[name]() for name in REGISTERED.names())
    if registered := next((layout for layout in layouts if layout.matches(data)), None):
        return registered.listing(data, split)
    if options.label_from is not None:
        return name_pattern.read(data, split, options.label_from)
    tables = csv_layout.find(data, split)
    if tables and (csv_layout.is_chosen(options) or not folders.has_class_folders(data, split)):
        return csv_layout.read(data, tables, split, options)
    refuse_foreign(data, split)
    flat = folders.is_flat(data)
    listing = folders.list_flat(data, split) if flat else folders.list_classes(folders.split_folder(data, split))
    notes = [f"{table.name} is not read; to read it, pass --data {shlex.quote(str(table))}" for table in tables[:1]]
    return replace(listing, notes=tuple(notes))
