"""Cells and columns of the tables of a report, and blocks by run."""

from __future__ import annotations

from collections.abc import Sequence

from tools.reports.page import Block, FoldedBlocks, TableCell, TableColumn
from tools.runs.folder import RunFolder


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction in percent as text."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}"


def fraction_cell(value: float | None) -> TableCell:
    """Return a cell with a fraction in percent over a bar."""
    return TableCell(percent(value), key=value, bar=value)


def count_cell(value: int | None) -> TableCell:
    """Return a cell with a whole number and thousands separators."""
    return TableCell("n/a" if value is None else f"{value:,}", key=value)


def text_cell(text: str) -> TableCell:
    """Return a cell with text, sorted without regard to case."""
    return TableCell(text, key=text.casefold())


def text_column(title: str) -> TableColumn:
    """Return a column of text."""
    return TableColumn(title, number=False)


def run_columns(runs: Sequence[RunFolder], single: str, prefix: str = "") -> list[TableColumn]:
    """Return a column of numbers for each run.

    Args:
        single: title if there is one run only, whose name is the page's title.
        prefix: text before the name of each run if there are several.
    """
    return [TableColumn(single)] if len(runs) == 1 else [TableColumn(prefix + run.name) for run in runs]


def blocks_by_run(parts: Sequence[tuple[str, Sequence[Block]]]) -> list[Block]:
    """Return the blocks of a single run as they are, and the blocks of several runs folded under their names."""
    if len(parts) == 1:
        return list(parts[0][1])
    return [FoldedBlocks(name, blocks) for name, blocks in parts]
