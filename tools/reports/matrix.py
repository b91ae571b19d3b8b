"""Shows confusion matrices in a report (as tables, or large ones as heat maps) and their most frequent confusions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tools.reports.cells import count_cell, fraction_cell, percent, tables_by_presence, text_cell, text_column
from tools.reports.charts import heat_map
from tools.reports.page import Block, ConfusionTable, MatrixCell, SideBySide, SortableTable, SvgChart, TableColumn

MOST_CLASSES = 14  # of a table; more classes get a heat map
MOST_PAIRS = 20  # of the table of confusions


def confusion_blocks(
    matrices: Sequence[tuple[str, np.ndarray]],
    names: Sequence[str],
    *,
    unit: str,
    in_percent: bool = False,
    background: bool = False,
) -> list[Block]:
    """Return blocks that show confusion matrices.

    Args:
        matrices: titles and matrices `[K, K]` of counts; rows are true classes, columns are predicted classes.
        names: names of the K rows and columns.
        unit: what is counted, in the plural, such as "images".
        in_percent: whether cells show percent of their row instead of counts.
        background: whether the last row and column are the background, not a class.
    """
    classes = len(names) - background
    whole = [_matrix(matrix, names, title, in_percent) for title, matrix in matrices]
    lists: list[Block] = [
        most_frequent(matrix, names, classes, title=f"{title}: most frequent confusions", unit=unit)
        for title, matrix in matrices
    ]
    if background:
        for title, matrix in matrices:
            is_present = [bool(matrix[k].any() or matrix[:, k].any()) for k in range(classes)]
            table = _by_class(matrix, names, title=f"{title}: outcomes")
            lists += tables_by_presence(table, is_present, "objects or detections")
    return [SideBySide(whole, tables=len(names) <= MOST_CLASSES), SideBySide(lists, tables=True)]


def most_frequent(matrix: np.ndarray, names: Sequence[str], classes: int, *, title: str, unit: str) -> SortableTable:
    """Return a table of the most frequent confusions among the first `classes` classes."""
    wrong = matrix[:classes, :classes].copy()
    np.fill_diagonal(wrong, 0)
    fractions = _row_fractions(matrix)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, predicted]:
            number, fraction = int(wrong[true, predicted]), float(fractions[true, predicted])
            cells = [text_cell(names[true]), text_cell(names[predicted])]
            rows.append([*cells, count_cell(number), fraction_cell(fraction)])
    columns = [text_column("true class"), text_column("predicted class")]
    columns += [TableColumn(unit), TableColumn("% of true class")]
    return SortableTable(title, columns, rows)


def _by_class(matrix: np.ndarray, names: Sequence[str], *, title: str) -> SortableTable:
    """Return a table of how many objects of each class were found, confused or missed; the background is last."""
    titles = ("objects", "found", "other class", "missed", "false positives")
    rows = []
    for index, name in enumerate(names[:-1]):
        total, found, missed = int(matrix[index].sum()), int(matrix[index, index]), int(matrix[index, -1])
        numbers = (total, found, total - found - missed, missed, int(matrix[-1, index]))
        rows.append([text_cell(name), *map(count_cell, numbers)])
    return SortableTable(title, [text_column("class"), *map(TableColumn, titles)], rows)


def _matrix(matrix: np.ndarray, names: Sequence[str], title: str, in_percent: bool) -> ConfusionTable | SvgChart:
    fractions = _row_fractions(matrix)
    if len(names) > MOST_CLASSES:
        note = (
            "Rows: true class; columns: predicted class, in the order of the classes. Strong colours: large fractions."
        )
        return heat_map(title, fractions, x="predicted class", y="true class", note=note)

    def cell(true: int, predicted: int) -> MatrixCell:
        fraction = float(fractions[true, predicted])
        text = percent(fraction) if in_percent else f"{matrix[true, predicted]:,}"
        return MatrixCell(text, fraction, true == predicted)

    size = range(len(names))
    return ConfusionTable(title, names, [[cell(true, predicted) for predicted in size] for true in size])


def _row_fractions(matrix: np.ndarray) -> np.ndarray:
    """Divide each row of a matrix by its sum; return the fractions 0..1."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
