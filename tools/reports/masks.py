"""The parts of a report on detection that concern masks; nothing for runs without masks."""

from __future__ import annotations

from collections.abc import Sequence

from tools.evaluation.summary import METRICS, PREFIXES, TITLES, IouType, iou_types_of
from tools.reports.cells import fraction_cell, text_cell, text_column
from tools.reports.page import Block, SortableTable, TableColumn
from tools.runs.folder import RunFolder


def mask_tables(runs: Sequence[RunFolder]) -> list[Block]:
    """Return a table of AP by boxes, masks and boundaries; nothing if no run has metrics of masks."""
    kinds = [iou for iou in PREFIXES if any(iou in iou_types_of(run.results) for run in runs)]
    if kinds in ([], ["bbox"]):
        return []
    columns = [text_column("metric")]
    columns += [TableColumn(_kind_title(run, iou, runs)) for run in runs for iou in kinds]
    rows = [
        [text_cell(name), *(fraction_cell(run.results.get(PREFIXES[iou] + name)) for run in runs for iou in kinds)]
        for name in METRICS
    ]
    return [SortableTable("Boxes and masks in percent", columns, rows)]


def _kind_title(run: RunFolder, iou: IouType, runs: Sequence[RunFolder]) -> str:
    return f"{TITLES[iou]} {run.name}" if len(runs) > 1 else TITLES[iou]
