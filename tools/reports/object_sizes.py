"""The chapter of a report on the sizes, shapes and numbers of objects, and how many of them are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from tools.evaluation.summary import AREAS
from tools.reports.cells import count_cell, fraction_cell, run_columns, text_column
from tools.reports.page import Section, SideBySide, SortableTable, TableCell, TableColumn
from tools.runs.outcomes import IOU, BoxPredictions, ImageOutcome, ObjectOutcome

SIZES = {name: text.replace("^2", "²") for name, text in AREAS.items() if name != "all"}
Test: TypeAlias = Callable[[ImageOutcome, ObjectOutcome], bool]


def sizes_section(found: Sequence[BoxPredictions], *, score: float) -> Section:
    """Return the chapter on recall by an object's size, its shape, and the number of objects in its image.

    Args:
        score: least score of the detections.
    """
    sizes = [(text, _has_size(name)) for name, text in SIZES.items()]
    tables = [
        _recall_table(found, "Objects by size", "size", sizes),
        _recall_table(found, "Objects by shape", "width : height", SHAPES),
        _recall_table(found, "Objects by number in the image", "in the image", NUMBERS),
    ]
    text = f"Fraction of the objects that are found with score {score:g} or higher at IoU {IOU:g}."
    return Section("Sizes and shapes", [SideBySide(tables, tables=True)], text)


def _recall_table(
    found: Sequence[BoxPredictions], title: str, what: str, groups: Sequence[tuple[str, Test]]
) -> SortableTable:
    """Return a table with the fraction of objects found, one row for each group of objects, such as small ones.

    Args:
        what: title of the column that names the groups.
        groups: name of each group, and a function that tells whether an object of an image belongs to it.
    """
    columns = [text_column(what), TableColumn("objects"), *run_columns([each.run for each in found], "found", "found ")]
    rows = []
    for index, (name, belongs) in enumerate(groups):
        chosen = [
            [each for image in run.images for each in image.counted_objects if belongs(image, each)] for run in found
        ]
        recalls = [_fraction_found(objects) for objects in chosen]
        rows.append([TableCell(name, key=index), count_cell(len(chosen[0])), *map(fraction_cell, recalls)])
    return SortableTable(title, columns, rows)


def _fraction_found(objects: Sequence[ObjectOutcome]) -> float | None:
    return sum(each.status == "found" for each in objects) / len(objects) if objects else None


def _has_size(area: str) -> Test:
    low, high = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}[area]
    return lambda image, each: low <= each.area < high


def _has_shape(low: float, high: float) -> Test:
    return lambda image, each: low <= each.box[2] / max(each.box[3], 1e-9) < high


def _is_among(low: int, high: float) -> Test:
    return lambda image, _: low <= len(image.counted_objects) <= high


SHAPES = [
    ("below 1 : 2 (tall)", _has_shape(0, 0.5)),
    ("1 : 2 to 4 : 5", _has_shape(0.5, 0.8)),
    ("4 : 5 to 5 : 4 (square)", _has_shape(0.8, 1.25)),
    ("5 : 4 to 2 : 1", _has_shape(1.25, 2)),
    ("above 2 : 1 (wide)", _has_shape(2, float("inf"))),
]
NUMBERS = [
    ("1", _is_among(1, 1)),
    ("2 to 5", _is_among(2, 5)),
    ("6 to 15", _is_among(6, 15)),
    ("16 or more", _is_among(16, float("inf"))),
]
