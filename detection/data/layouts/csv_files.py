"""Reads CSV files with a header, as spreadsheets and annotation tools write them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from backbones.errors import UserError, counted
from detection.data.layouts.sniffing import head_of
from detection.data.truth import read_text

DELIMITERS = ",;\t"  # between the cells of a line


def has_columns(path: Path, names: Iterable[str]) -> bool:
    """Return whether the header of a CSV file holds all given column names."""
    return set(names) <= set(first_cells(path))


def first_cells(path: Path, line: int = 0) -> list[str]:
    """Return the cells of a line of a CSV file, from 0 and without blank lines; [] if there is no such line.

    Only the beginning of the file is read.
    """
    lines = _first_lines(path)
    try:
        return [cell.strip() for cell in next(csv.reader([lines[line]], delimiter=delimiter_of(lines[0])), [])]
    except (csv.Error, IndexError):
        return []


def delimiter_of(line: str) -> str:
    """Return the character between the cells of a header: a comma, a semicolon or a tab.

    Spreadsheets of countries with decimal commas write semicolons.
    """
    return max(DELIMITERS, key=line.count)


def may_have_decimal_commas(path: Path) -> bool:
    """Return whether the cells of a CSV file are separated by semicolons, so that numbers may have decimal commas."""
    lines = _first_lines(path)
    return bool(lines) and delimiter_of(lines[0]) == ";"


def _first_lines(path: Path) -> list[str]:
    """Return the first lines of a CSV file that are not blank."""
    return [line for line in head_of(path).lstrip("\ufeff").splitlines() if line.strip()]


def read_rows(path: Path, names: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number, from 1, and the cells by column name of each row of a CSV file that is not blank.

    Args:
        names: names of the columns of a file without header.

    Raises:
        UserError: the file cannot be read, is not a CSV file, or a row has not as many cells as the header.
    """
    header = list(names)
    for number, cells in _numbered(path):
        if not header:
            header = [cell.strip() for cell in cells]
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{path}: line {number}: has {counted(len(cells), 'cell')}, but the header has {len(header)}; fix the "
                "line"
            )
        yield number, dict(zip(header, cells, strict=True))


def read_cells(path: Path) -> list[list[str]]:
    """Return the cells of each row of a CSV file without header that is not blank.

    Raises:
        UserError: the file cannot be read, or is not a CSV file.
    """
    return [cells for _, cells in _numbered(path, DELIMITERS[0])]


def _numbered(path: Path, delimiter: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number, from 1, and the cells of each row that is not blank.

    Args:
        delimiter: character between the cells; None for that of the header.
    """
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or delimiter_of(first))
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: is not CSV ({error}); save the file again") from None
