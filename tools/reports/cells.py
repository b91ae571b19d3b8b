"""Makes cells and columns for the tables of a report, and arranges blocks by run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tools.reports.page import Block, FoldedBlocks, SortableTable, TableCell, TableColumn
from tools.runs.folder import RunFolder


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction 0..1 as text in percent: 0.5 gives "50.0"; None gives "n/a"."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}"


def fraction_cell(value: float | None) -> TableCell:
    """Return a table cell that shows a fraction 0..1 in percent, with a bar whose length is the fraction."""
    return TableCell(percent(value), key=value, bar=value)


def count_cell(value: int | None) -> TableCell:
    """Return a table cell that shows a whole number with thousands separators: 12,345."""
    return TableCell("n/a" if value is None else f"{value:,}", key=value)


def text_cell(text: str) -> TableCell:
    """Return a table cell with text. Sorting ignores upper and lower case."""
    return TableCell(text, key=text.casefold())


def text_column(title: str) -> TableColumn:
    """Return a table column for text, aligned left."""
    return TableColumn(title, number=False)


def run_columns(runs: Sequence[RunFolder], single: str, prefix: str = "") -> list[TableColumn]:
    """Return a table column of numbers for each run. The title of a column is the run's name.

    Args:
        single: title of the column if there is only one run, whose name is already the page's title.
        prefix: text before each run's name if there are several runs.
    """
    return [TableColumn(single)] if len(runs) == 1 else [TableColumn(prefix + run.name) for run in runs]


def blocks_by_run(parts: Sequence[tuple[str, Sequence[Block]]]) -> list[Block]:
    """Return the blocks of all runs. With several runs, those of each run are folded under its name."""
    if len(parts) == 1:
        return list(parts[0][1])
    return [FoldedBlocks(name, blocks) for name, blocks in parts]


def tables_by_presence(table: SortableTable, is_present: Sequence[bool], what: str) -> list[Block]:
    """Return a table of classes without the classes that do not occur, and a folded table of those classes.

    Args:
        is_present: whether the class of each row occurs.
        what: what the absent classes lack, such as "objects".
    """
    rows = list(zip(table.rows, is_present, strict=True))
    present, absent = ([row for row, known in rows if known is kept] for kept in (True, False))
    if not present or not absent:
        return [table]
    title = f"{len(absent):,} class{'es' * (len(absent) > 1)} without {what}"
    return [replace(table, rows=present), FoldedBlocks(title, [replace(table, caption=title, rows=absent, note="")])]
