"""CSV files with a row for each box, as programs and Kaggle's competitions write them.

Examples are `_annotations.csv` of Roboflow's export for TensorFlow, and the files of keras-retinanet and makesense.ai,
which have no header.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from backbones.common.image_finder import ImageFinder
from backbones.common.listing import files_of, is_file
from backbones.errors import UserError, first_names
from detection.data.layouts import open_images, via
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import Collector, as_number
from detection.data.layouts.csv_files import first_cells, has_columns, may_have_decimal_commas, read_cells, read_rows
from detection.data.layouts.files import FileLayout
from detection.data.layouts.images import SPLIT_WORDS, UNSPLIT, folders_of_splits, require_split
from detection.data.layouts.open_images import UNLISTED
from detection.data.layouts.table_columns import (
    Columns,
    are_fractions,
    find_columns,
    has_boxes,
    kinds_of_cells,
    names_of_headerless,
)
from detection.data.truth import Truth

CLASSES = ("classes.csv", "_classes.csv")  # lists of the classes of keras-retinanet, and as Roboflow calls them
OTHER_SPLITS = ("trainval", "unassigned")
ONE_CLASS = "rows without a column of classes, read as class object"
NO_SPLIT = "rows without a split, which are left out"
COMMAS = "lines whose numbers have decimal commas"
FRACTIONS = "boxes given as fractions of the sides of their image"
Row = tuple[int, dict[str, str]]  # number of the line, and cells by the names of the columns


@LAYOUTS.register("table")
class TableLayout(FileLayout):
    """CSV files with a column of image names, and columns of boxes and classes, under any usual name."""

    name = "table"
    form = "a CSV file with the columns filename, class, xmin, ymin, xmax and ymax, and images"
    file = "a CSV file with columns of images and boxes"
    suffixes = (".csv", ".tsv")

    def reads(self, path: Path) -> bool:
        if has_columns(path, open_images.COLUMNS) or has_columns(path, via.COLUMNS):
            return False
        return has_boxes(names_of_headerless(path) or first_cells(path))

    def splits(self, root: Path) -> list[str]:
        return sorted(self._cells_of_splits(root) or super().splits(root))

    def read(self, root: Path, split: str, how: Reading) -> Truth:
        splits = self._cells_of_splits(root)
        if not splits:
            return super().read(root, split, how)
        require_split(split, sorted(splits), root)
        ((path, images),) = self.places(root).values()
        return _read(_Table.of(path), images, how, split=split)

    def read_file(self, path: Path, images: Path, how: Reading, *, others: list[Path]) -> Truth:
        return _read(_Table.of(path), images, how, others=others)

    def _cells_of_splits(self, root: Path) -> Counter[str]:
        """Return the cells of the column of splits of a data set's one file, if there are several."""
        places = self.places(root)
        path = places[UNSPLIT][0] if [*places] == [UNSPLIT] else None
        if path is None or not _columns(path).split:
            return Counter()
        table = _Table.of(path)
        found = Counter(split for _, row in table.rows if (split := table.split_of(row)))
        return found if len(found) > 1 and found.keys() <= {*SPLIT_WORDS, *OTHER_SPLITS} else Counter()


def refuse_unknown_columns(root: Path) -> None:
    """Refuse a data set with a CSV file that seems to hold boxes, whose columns have no usual names.

    Raises:
        UserError: the text names the columns that are needed, and those of the file.
    """
    for folder in (root, root / "annotations", *folders_of_splits(root)):
        for path in (path for suffix in TableLayout.suffixes for path in files_of(folder, suffix)):
            kinds = kinds_of_cells(path, 1)
            if "F" in kinds and kinds.count("N") >= 4:
                find_columns(path, first_cells(path))


def _columns(path: Path) -> Columns:
    return find_columns(path, names_of_headerless(path) or first_cells(path))


@dataclass(frozen=True)
class _Table:
    """The rows of a CSV file of boxes."""

    path: Path
    columns: Columns
    rows: list[Row]
    commas: int = 0  # rows with decimal commas

    @classmethod
    def of(cls, path: Path) -> _Table:
        columns, rows = _columns(path), list(read_rows(path, names_of_headerless(path)))
        numbers = (*columns.box, *columns.sides) if len(columns.box) > 1 and may_have_decimal_commas(path) else ()
        changed = 0
        for _, row in rows:
            points = {name: row[name].replace(",", ".") for name in numbers if "," in row[name]}
            row.update(points)
            changed += bool(points)
        return cls(path, columns, rows, changed)

    def split_of(self, row: dict[str, str]) -> str:
        cell = row[self.columns.split] if self.columns.split else ""
        return cell.strip().lower()

    def classes(self) -> set[str]:
        """Return the class names of the rows that have a box."""
        label = self.columns.label
        return {row[label].strip() for _, row in self.rows if label and self.columns.has_box(row)} - {""}

    def by_image(self, split: str | None) -> dict[str, list[Row]]:
        """Return the rows of each image of a split; None for all images."""
        found: dict[str, list[Row]] = {}
        for number, row in self.rows:
            if split is None or self.split_of(row) == split:
                found.setdefault(row[self.columns.image].strip(), []).append((number, row))
        return found

    def has_fractions(self) -> bool:
        """Return whether the numbers of most boxes are from 0 to 1, and one of these is neither 0 nor 1."""
        boxes = [box for _, row in self.rows for box in self.columns.boxes(row) if box]
        inside = list(filter(are_fractions, boxes))
        return 2 * len(inside) > len(boxes) and any(side not in (0, 1) for box in inside for side in box)


def _read(table: _Table, images: Path, how: Reading, *, others: Iterable[Path] = (), split: str | None = None) -> Truth:
    records = Collector("table", table.path, ImageFinder(images), how, "line")
    listed, fractions = _listed(table.path), table.has_fractions()
    for name, rows in table.by_image(split).items():
        sides = [rows[0][1][side] for side in table.columns.sides]
        image = records.add_image(name, table.path, size=sides, where=f"line {rows[0][0]}")
        if image is None:
            continue
        scale = (image["width"], image["height"]) if fractions else (1, 1)
        for number, row in rows:
            _add_boxes(number, row, table.columns, scale, listed, records)
    tables = [table, *map(_Table.of, others)]
    beside = [each for each in tables if each.path.parent == table.path.parent]  # may have images in the same folder
    records.note_unlisted(UNLISTED, (name for each in beside for name in each.by_image(None)))
    _note(records, table, split)
    _require_no_corners(table, records)
    used = [each.classes() for each in tables]
    return records.finish(listed or (None if any(used) else ["object"]), splits=used)


def _add_boxes(
    number: int, row: dict[str, str], columns: Columns, scale: tuple[int, int], listed: list[str], records: Collector
) -> None:
    """Add the boxes of a row, whose numbers are multiplied by `scale` for columns and rows."""
    title = row[columns.label].strip() if columns.label else "object"
    notes = [text for text, holds in ((ONE_CLASS, not columns.label), (FRACTIONS, scale != (1, 1))) if holds]
    for sides in columns.boxes(row):
        if listed and title not in listed:
            records.refuse(number, f"its class {title[:40]!r} is not in {CLASSES[0]}; fix one of the two")
        elif sides and scale != (1, 1) and not are_fractions(sides):
            records.refuse(number, f"its box {sides} is not inside 0..1, as most boxes of the file are; fix the box")
        else:
            records.truth.notes.update(notes)
            scaled = [side * scale[index % 2] for index, side in enumerate(sides or ())]
            records.add_object(title, columns.as_box(scaled) if sides else [row[name] for name in columns.box], number)


def _note(records: Collector, table: _Table, split: str | None) -> None:
    """Count lines that are read in another way than they are written, and columns that are not read."""
    if table.commas:
        records.truth.notes[COMMAS] += table.commas
    if split is not None and (blank := sum(not table.split_of(row) for _, row in table.rows)):
        records.truth.notes[NO_SPLIT] += blank
    unread = [*table.columns.unread, *([table.columns.split] if table.columns.split and split is None else [])]
    if unread:
        records.truth.notes[f"columns that are not read ({first_names(unread)})"] += len(unread)


def _require_no_corners(table: _Table, records: Collector) -> None:
    """Refuse texts of four numbers that must be corners: as width and height, they would reach out of the images."""
    data, sides = records.truth.data, len(table.columns.box)
    if sides > 1 or table.columns.as_box is not list or not data["annotations"]:
        return
    boxes = [(record["bbox"], data["images"][record["image_id"] - 1]) for record in data["annotations"]]
    if all(box[2] > box[0] and box[3] > box[1] for box, _ in boxes) and any(
        box[0] + box[2] > image["width"] + 1 or box[1] + box[3] > image["height"] + 1 for box, image in boxes
    ):
        column = table.columns.box[0]
        raise UserError(
            f"{table.path}: it is not clear whether the column {column} holds widths and heights or right and bottom "
            "sides; call it xywh or xyxy"
        )


def _listed(path: Path) -> list[str]:
    """Return the class names of keras-retinanet's list beside a file, in the order of their numbers; [] for no list."""
    file = next((place for name in CLASSES if is_file(place := path.parent / name)), None)
    rows = read_cells(file) if file else []
    numbers = [as_number(row[1]) if len(row) == 2 else None for row in rows]
    known = {row[0].strip(): number for row, number in zip(rows, numbers, strict=True) if number is not None}
    return sorted(known, key=lambda name: known[name]) if len(known) == len(rows) else []
