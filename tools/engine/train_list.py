"""Reads a list of training images (`--train-list`), and finds its images in the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np

from backbones.errors import UserError, counted, first_names
from tools.engine.options import SubsetOptions

Entry: TypeAlias = int | str  # image id, or file name


@dataclass(frozen=True)
class TrainList:
    """The entries of a list of training images.

    Attributes:
        where: the option and its file, for messages.
        entries: image ids and file names, each once.
        repeated: number of entries that were left out because they are listed already.
    """

    where: str
    entries: list[Entry]
    repeated: int

    @classmethod
    def read(cls, options: SubsetOptions) -> TrainList:
        """Read the file of `--train-list`, and choose the list of `--list-percent` and `--draw`.

        Raises:
            UserError: the file cannot be read, is malformed, or does not hold the chosen list.
        """
        where = f"--train-list {options.train_list}"
        try:
            text = Path(options.train_list or "").read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: cannot be read ({error}); name a text or JSON file") from None
        if text.lstrip().startswith(("{", "[")):
            entries = _of_json(text, options, where)
        else:
            entries = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        unique = list(dict.fromkeys(entries))
        if not unique:
            raise UserError(f"{where}: lists no image; write one image id or file name a line")
        return cls(where, unique, len(entries) - len(unique))

    def rows(self, names: Sequence[str], ids: Sequence[int] = ()) -> np.ndarray:
        """Return the indices of the listed images among the images of the data, sorted.

        A number of a JSON list is an image id, or a file name without suffix and leading zeros. A text is the path of a
        file relative to its folder, with or without suffix; or a longer path that ends with it; or its last part if
        only one image has it; or an image id.

        Args:
            names: file names of the images, relative to their folder.
            ids: ids of the images.

        Raises:
            UserError: the data do not have an image, or an entry may mean several images.
        """
        finder = _Finder(names, ids)
        found = [finder.find(entry) for entry in self.entries]
        for entry, rows in zip(self.entries, found, strict=True):
            if len(rows) > 1:
                shown = " and ".join(names[row] for row in sorted(rows)[:2])
                raise UserError(f"{self.where}: {entry} may be {shown}; write paths of files with their suffix")
        unknown = [str(entry) for entry, rows in zip(self.entries, found, strict=True) if not rows]
        if unknown:
            raise UserError(
                f"{self.where}: {counted(len(unknown), 'entry')} of {len(self.entries)} are no training images of the "
                f"data ({first_names(unknown, 3)}); fix the list, or add --list-positions if its numbers are positions"
            )
        return np.array(sorted({row for rows in found for row in rows}), np.int64)

    def rows_at(self, order: np.ndarray) -> np.ndarray:
        """Return the indices of the listed images, sorted, where the entries are positions from 0 in `order`.

        Args:
            order: indices of the images that the positions count.

        Raises:
            UserError: an entry is no number, or there are too few images.
        """
        wrong = [entry for entry in self.entries if not str(entry).isdecimal() or int(entry) >= len(order)]
        if wrong:
            raise UserError(
                f"{self.where}: {wrong[0]} is no position from 0 to {len(order) - 1}; leave --list-positions out if "
                "the list holds image ids, or use the data that it was made for"
            )
        return np.sort(order[[int(entry) for entry in self.entries]])

    def describe(self, options: SubsetOptions) -> str:
        """Return which list was used, for the plan."""
        percent = "" if options.list_percent is None else f", {options.list_percent:g} %"
        draw = "" if options.draw is None else f", draw {options.draw}"
        repeated = f"; entries listed twice: {self.repeated}" if self.repeated else ""
        return f"{self.where}{percent}{draw}{repeated}"


class _Finder:
    """Finds images by id, path, path without suffix, last part of the path, and last part without suffix."""

    def __init__(self, names: Sequence[str], ids: Sequence[int]) -> None:
        self._paths = paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
        self._ids = _table([str(identifier) for identifier in ids])
        self._numbers = _table([path.stem.lstrip("0") or path.stem for path in paths])
        self._parts = [
            _table([str(path) for path in paths]),
            _table([str(path.with_suffix("")) for path in paths]),
            _table([path.name for path in paths]),
            _table([path.stem for path in paths]),
        ]

    def find(self, entry: Entry) -> set[int]:
        """Return the indices of the images that an entry may mean."""
        if isinstance(entry, int):
            return self._ids.get(str(entry), set()) | self._numbers.get(str(entry), set())
        path = PurePosixPath(entry.replace("\\", "/"))
        for key in (str(path), path.name):
            for table in self._parts:
                # A file of the same name in another folder is another image.
                if rows := {row for row in table.get(key, ()) if _ends_alike(path, self._paths[row])}:
                    return rows
        return self._ids.get(entry, set())


def _ends_alike(first: PurePosixPath, other: PurePosixPath) -> bool:
    """Return whether the folders of two paths are equal, as far as the path with fewer folders names them."""
    a, b = ([part for part in path.parts[:-1] if part not in ("/", "..")] for path in (first, other))
    common = min(len(a), len(b))
    return a[len(a) - common :] == b[len(b) - common :]


def _table(keys: Sequence[str]) -> dict[str, set[int]]:
    table: dict[str, set[int]] = {}
    for row, key in enumerate(keys):
        table.setdefault(key, set()).add(row)
    return table


def _of_json(text: str, options: SubsetOptions, where: str) -> list[Entry]:
    """Return the entries of a JSON list, of a COCO file, or of the chosen list of several."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: is not valid JSON ({error}); fix the file") from None
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        value = [image.get("file_name", image.get("id")) for image in value["images"] if isinstance(image, dict)]
    elif isinstance(value, dict):
        nested = any(isinstance(each, dict) for each in value.values())
        if nested or options.list_percent is not None:
            value = _chosen(value, options.list_percent, "--list-percent", where)
        if isinstance(value, dict):
            value = _chosen(value, options.draw, "--draw", where)
    if not isinstance(value, list) or not all(isinstance(each, (int, str)) for each in value):
        raise UserError(f"{where}: holds no list of image ids or file names; write a list such as [139, 285]")
    return value


def _chosen(lists: dict[str, object], wanted: float | None, option: str, where: str) -> object:
    """Return the one of several lists that an option names by number; it may be left out if there is only one."""
    if wanted is None and len(lists) == 1:
        return next(iter(lists.values()))
    for key, value in lists.items():
        if wanted is not None and _number(key) == wanted:
            return value
    has = f"holds lists for {first_names(list(lists), 12)}"
    if wanted is None:
        raise UserError(f"{where}: {has}; choose one with {option}")
    raise UserError(f"{option} {wanted:g}: {where.removeprefix('--train-list ')} {has}; choose one of these")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
