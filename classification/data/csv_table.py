"""Parses a CSV file that lists images with their classes: its columns, its lines, and the classes of each line.

The first line names the columns. The image column is the first one of a usual name (`IMAGE_NAMES`), and so are the
label column and the column of the splits. Without a label column, columns of zeros and ones are the classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from backbones.errors import UserError, counted, first_names
from classification.data.json_lines import table_of
from classification.data.reading import Reading

DELIMITERS = ",\t;"
IMAGE_NAMES = (
    *("image", "filename", "file_name", "file", "filepath", "file_path", "path", "image_path", "image_name"),
    *("image_file", "image_id", "img", "img_path", "id", "name"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "classes", "class_name", "category", "categories", "target", "tag", "tags"),
    *("species", "breed", "diagnosis"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "data_set", "dataset")
BITS = {"0": False, "1": True, "0.0": False, "1.0": True}


@dataclass(frozen=True)
class Row:
    """One line of a CSV file: line number, image as it is written, classes, and split ("" if there is no column)."""

    line: int
    image: str
    labels: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class Table:
    """A CSV file: its column names as they are written, and the cells of each line with the line's number."""

    path: Path
    header: tuple[str, ...]
    cells: tuple[tuple[int, tuple[str, ...]], ...]
    options: Reading

    @classmethod
    def read(cls, path: Path, options: Reading) -> Table:
        """Read a CSV file in UTF-8, with commas, semicolons or tabs between the cells, or a file of JSON lines.

        Raises:
            UserError: the file cannot be read, is empty, or a line has another number of cells than the first one.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
            if path.suffix.lower() == ".jsonl":
                return cls._of(path, table_of(text, path, options.label_separator), options)
            first = next((line for line in text.splitlines() if line.strip()), "")
            delimiter = max(DELIMITERS, key=first.count)
            reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
            lines = [(reader.line_num, tuple(map(str.strip, cells))) for cells in reader if any(map(str.strip, cells))]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: cannot be read ({error}); save it as a CSV file in UTF-8") from None
        return cls._of(path, lines, options)

    @classmethod
    def _of(cls, path: Path, lines: Sequence[tuple[int, tuple[str, ...]]], options: Reading) -> Table:
        """Return the table of lines, of which the first one names the columns."""
        if len(lines) < 2:
            raise UserError(f"{path}: lists no images; write a line of column names and a line for each image")
        (_, header), *rest = lines
        for line, cells in rest:
            if len(cells) != len(header):
                raise UserError(
                    f"{path}: line {line} has {counted(len(cells), 'cell')}, but the first line names {len(header)} "
                    "columns; fix the line, or put quotes around commas"
                )
        return cls(path, header, tuple(rest), options)

    @cached_property
    def image_column(self) -> int:
        """Index of the column of the images."""
        if (found := self._column(self.options.image_column, IMAGE_NAMES, "image")) is not None:
            return found
        raise UserError(
            f"{self.path}: no column names the images (the first line has {first_names(self.header)}); name the "
            "column with --image-column, or begin the file with a line such as image,label"
        )

    @cached_property
    def label_column(self) -> int | None:
        """Index of the column of the classes, or None if each class has a column of its own."""
        found = self._column(self.options.label_column, LABEL_NAMES, "label")
        rest = self._others
        if found is None and len(rest) == 1 and self.class_columns is None:
            return rest[0]
        return found

    @cached_property
    def split_column(self) -> int | None:
        """Index of the column of the splits, or None if there is none."""
        return self._column(self.options.split_column, SPLIT_COLUMNS, "split")

    @cached_property
    def class_columns(self) -> Sequence[int] | None:
        """Indices of the columns of zeros and ones that stand for one class each, or None if there are none."""
        columns = self._others
        if len(columns) < 2 or any(cells[column] not in BITS for _, cells in self.cells for column in columns):
            return None
        return columns

    @property
    def _others(self) -> list[int]:
        taken = (self.image_column, self.split_column)
        return [index for index, name in enumerate(self.header) if index not in taken and name]

    @cached_property
    def multi_label(self) -> bool:
        """Whether a line of the file has several classes; for columns of zeros and ones, several or none."""
        if self.options.multi_label is not None:
            return self.options.multi_label
        few = 1 if self.label_column is None else 0  # an empty cell is an error, unless another one has several
        return any(len(row.labels) > 1 or len(row.labels) < few for row in self.rows())

    def rows(self) -> Iterator[Row]:
        """Yield the lines with their classes.

        Raises:
            UserError: no column has the classes.
        """
        label, split = self.label_column, self.split_column
        if label is None and self.class_columns is None:
            raise UserError(
                f"{self.path}: no column names the classes (the first line has {first_names(self.header)}); name the "
                "column with --label-column"
            )
        for line, cells in self.cells:
            labels = self._bits(cells) if label is None else self._split(cells[label])
            yield Row(line, cells[self.image_column], labels, "" if split is None else cells[split])

    def _bits(self, cells: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.header[column] for column in self.class_columns or () if BITS[cells[column]])

    def _split(self, cell: str) -> tuple[str, ...]:
        """Return the classes in a cell."""
        if self.options.multi_label is False:
            return (cell,) if cell else ()
        parts = (part.strip() for part in cell.split(self.options.label_separator))
        return tuple(dict.fromkeys(part for part in parts if part))

    def _column(self, chosen: str | None, usual: Sequence[str], what: str) -> int | None:
        names = [name.lower().replace(" ", "_") for name in self.header]
        if chosen is not None:
            if chosen not in self.header:
                raise UserError(
                    f"--{what}-column {chosen}: {self.path} has no such column (it has {first_names(self.header)}); "
                    "name one of them"
                )
            return self.header.index(chosen)
        return next((names.index(name) for name in usual if name in names), None)
