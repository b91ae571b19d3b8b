"""The parts of a report that concern masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.evaluation.summary import METRICS
from tools.reports.masks import mask_tables
from tools.runs.folder import RunFolder


def run(name: str, **results: Any) -> RunFolder:
    return RunFolder(Path(name), name, "detection", {}, results, [])


def test_metrics_of_masks_stand_beside_those_of_boxes() -> None:
    boxes = {name: 0.5 for name in METRICS}
    masks = {f"segm_{name}": None if name == "APl" else 0.25 for name in METRICS}
    assert mask_tables([run("boxes", **boxes)]) == []
    (table,) = mask_tables([run("masks", **boxes, **masks)])
    assert [column.title for column in table.columns] == ["metric", "boxes", "masks"]
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert shown["AP"] == ["50.0", "25.0"] and shown["APl"] == ["50.0", "n/a"] and len(shown) == 12
    (table,) = mask_tables([run("a", **boxes), run("b", **boxes, **masks)])
    assert [column.title for column in table.columns][1:] == ["boxes a", "masks a", "boxes b", "masks b"]
