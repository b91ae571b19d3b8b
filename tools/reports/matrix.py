"""Confusion matrices of any task: a table where it is small, a picture where it is not, and the commonest mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.reports.charts import heat_map
from tools.reports.page import Column, Matrix, Side, Table, count, percent, share, word

MOST_CLASSES = 14  # of a table; more become a picture
MOST_PAIRS = 20


def confusions(
    matrices: Sequence[tuple[str, np.ndarray]],
    names: Sequence[str],
    *,
    unit: str,
    shares: bool = False,
    background: bool = False,
) -> list[Any]:
    """Confusion matrices `[K, K]` (row: truth) with their titles as blocks of a page.

    Args:
        unit: what is counted.
        shares: write percent of the row in place of the counts.
        background: the last row and column are none of the classes.
    """
    real = len(names) - background
    whole = [_whole(matrix, names, title, shares) for title, matrix in matrices]
    lists = [
        most_confused(matrix, names, real, title=f"{title}: most confused", unit=unit) for title, matrix in matrices
    ]
    if background:
        lists += [_by_class(matrix, names, title=f"{title}: missed and invented") for title, matrix in matrices]
    return [Side(whole, tables=len(names) <= MOST_CLASSES), Side(lists, tables=True)]


def most_confused(matrix: np.ndarray, names: Sequence[str], real: int, *, title: str, unit: str) -> Table:
    """The pairs of the first `real` classes that are mistaken most often."""
    wrong = matrix[:real, :real].copy()
    np.fill_diagonal(wrong, 0)
    parts = _parts(matrix)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    rows = []
    for truth, taken in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[truth, taken]:
            number, part = int(wrong[truth, taken]), float(parts[truth, taken])
            rows.append([word(names[truth]), word(names[taken]), count(number), share(part)])
    columns = [Column("truth", number=False), Column("taken for", number=False), Column(unit), Column("% of the row")]
    return Table(title, columns, rows)


def _by_class(matrix: np.ndarray, names: Sequence[str], *, title: str) -> Table:
    """What became of the objects of each class, the last row and column being the background."""
    columns = [Column("class", number=False), *map(Column, ("objects", "found", "other class", "missed", "invented"))]
    rows = []
    for place, name in enumerate(names[:-1]):
        total, hit, missed = (int(value) for value in (matrix[place].sum(), matrix[place, place], matrix[place, -1]))
        numbers = (total, hit, total - hit - missed, missed, int(matrix[-1, place]))
        rows.append([word(name), *map(count, numbers)])
    return Table(title, columns, rows)


def _whole(matrix: np.ndarray, names: Sequence[str], title: str, shares: bool) -> Any:
    parts = _parts(matrix)
    if len(names) > MOST_CLASSES:
        note = "Row: truth; column: prediction; in the classes' order. Strong colours are large shares of their row."
        return heat_map(title, parts, x="prediction", y="truth", note=note)
    cells = [
        [
            (
                percent(float(parts[row, column])) if shares else f"{matrix[row, column]:,}",
                float(parts[row, column]),
                row == column,
            )
            for column in range(len(names))
        ]
        for row in range(len(names))
    ]
    return Matrix(title, list(names), list(names), cells)


def _parts(matrix: np.ndarray) -> np.ndarray:
    """Each row as shares of its sum."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
