"""Reads `metadata.jsonl` of Hugging Face's image folders as a table: a line of JSON for each image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from backbones.common.datasets import Record
from backbones.common.json_lines import numbered_objects, parse_object
from backbones.errors import UserError

BOXES = "objects"  # key of the boxes of an image
Line = tuple[int, tuple[str, ...]]  # number of the line, and its cells


def names_label(path: Path, names: Collection[str]) -> bool:
    """Return whether the first line of a file has a key of a list, such as "label", and no boxes."""
    keys = _first_keys(path)
    return BOXES not in keys and bool({*names} & {key.lower() for key in keys})


def names_boxes(path: Path) -> bool:
    """Return whether the first line of a file has boxes."""
    return BOXES in _first_keys(path)


def _first_keys(path: Path) -> set[str]:
    """Return the keys of the first line of a file; none if it is no file of JSON lines."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return {*(parse_object(next(file, "")) or ())}
    except (OSError, ValueError):
        return set()


def table_of(text: str, path: Path, separator: str) -> list[Line]:
    """Return the lines of a file as cells, with the names of the columns first.

    Args:
        separator: text between the values of a list, such as several classes of an image.

    Raises:
        UserError: a line is no JSON object, or lacks a key of the first line.
    """
    entries = [(number, _required(entry, path, number)) for number, entry in numbered_objects(text)]
    for number, entry in entries:
        if lacking := [name for name in entries[0][1] if name not in entry]:
            raise UserError(f"{path}: line {number} has no {lacking[0]!r}, which the first line has; fix the line")
        if doubtful := [name for name, value in entry.items() if _holds(value, separator)]:
            text = f"{path}: line {number}: {doubtful[0]!r} has a value with {separator!r}, which separates classes; "
            raise UserError(f"{text}pass another --label-separator")
    header = tuple(dict.fromkeys(name for _, entry in entries for name in entry))
    cells = [(number, tuple(_cell(entry.get(name), separator) for name in header)) for number, entry in entries]
    return [(0, header), *cells] if header else []


def _required(entry: Record | None, path: Path, number: int) -> Record:
    if entry is None:
        raise UserError(f"{path}: line {number} is not a JSON object; write the file again")
    return entry


def _holds(value: object, separator: str) -> bool:
    """Return whether a text in a list holds the text that will separate the values of the list."""
    return isinstance(value, list) and any(separator in str(part) for part in value)


def _cell(value: object, separator: str) -> str:
    """Return a value as the cell of a table: "" for null, and a list as text with separators."""
    parts: Sequence[object] = value if isinstance(value, list) else [value]
    return separator.join("" if part is None else str(part).strip() for part in parts)
