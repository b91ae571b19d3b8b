"""The chapter of a report on an exported file: its metrics beside those of the run."""

from __future__ import annotations

from backbones.errors import counted
from tools.reports.cells import fraction_cell, text_cell, text_column
from tools.reports.page import Section, SortableTable, TableCell, TableColumn
from tools.runs.file_metrics import FileMetrics
from tools.runs.folder import RunFolder

LOSSES = ("nll",)  # metrics that are no fractions


def deployed_section(run: RunFolder, found: FileMetrics) -> Section:
    """Return the chapter on an exported file."""
    columns = [text_column("metric"), TableColumn("run"), TableColumn("file"), TableColumn("difference")]
    rows = [
        [text_cell(name), *_cells(name, run.results.get(name), value)]
        for name, value in found.metrics.items()
        if value is not None
    ]
    size, images = found.path.stat().st_size / 1e6, counted(found.images, "image")
    table = SortableTable("Metrics of the run and of the file", columns, rows, "In percent, except nll.")
    text = (
        f"{found.path.name} ({size:.1f} MB) on the {images} on which the run was evaluated, with "
        f"the steps around the file that a program takes: {1000 * found.seconds:.0f} ms an image on the CPU, reading "
        "included."
    )
    return Section("Exported file", [table], text)


def _cells(name: str, own: float | None, value: float) -> list[TableCell]:
    """Return the cells of the run's value, the file's value, and their difference."""
    gap = None if own is None else value - own
    if name not in LOSSES:
        shown = TableCell("n/a" if gap is None else f"{100 * gap:+.2f}", key=gap)
        return [fraction_cell(own), fraction_cell(value), shown]
    values = ((own, ".4f"), (value, ".4f"), (gap, "+.4f"))
    return [TableCell("n/a" if each is None else format(each, form), key=each) for each, form in values]
