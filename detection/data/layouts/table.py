"""CSV files with a row for each box in pixels, such as `_annotations.csv` of Roboflow's export for TensorFlow."""

from __future__ import annotations

from pathlib import Path

from backbones.common.image_finder import ImageFinder
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import Collector, as_number
from detection.data.layouts.csv_files import has_columns, read_rows
from detection.data.layouts.files import FileLayout
from detection.data.layouts.open_images import UNLISTED
from detection.data.truth import Truth

CORNERS = ("xmin", "ymin", "xmax", "ymax")
COLUMNS = ("filename", "class", *CORNERS)


@LAYOUTS.register("tensorflow-csv")
class TensorflowCsvLayout(FileLayout):
    """CSV files with the columns filename, width, height, class, xmin, ymin, xmax and ymax."""

    name = "tensorflow-csv"
    form = "a CSV file with the columns filename, class, xmin, ymin, xmax and ymax, and images"
    file = f"a CSV file with the columns {', '.join(COLUMNS)}"
    suffixes = (".csv", ".tsv")

    def reads(self, path: Path) -> bool:
        return has_columns(path, COLUMNS)

    def read_file(self, path: Path, images: Path, how: Reading, *, others: list[Path]) -> Truth:
        records = Collector("tensorflow-csv", path, ImageFinder(images), how, "line")
        rows: dict[str, list[tuple[int, dict[str, str]]]] = {}
        for number, row in read_rows(path):
            rows.setdefault(row["filename"], []).append((number, row))
        for name, own in rows.items():
            sides = [own[0][1].get(side, "") for side in ("width", "height")]
            if records.add_image(name, path, size=sides if all(sides) else (), where=f"line {own[0][0]}") is None:
                continue
            for number, row in own:
                values = [as_number(row[corner]) for corner in CORNERS]
                left, top, right, bottom = (0.0 if value is None else value for value in values)
                box = [None] if None in values else [left, top, right - left, bottom - top]
                records.add_object(row["class"], box, number)
        left_out = len(records.images.files) - len(records.truth.files)
        if left_out > 0:
            records.truth.notes[UNLISTED] += left_out
        used = [{row["class"].strip() for _, row in read_rows(file)} - {""} for file in (path, *others)]
        return records.finish(splits=used)
