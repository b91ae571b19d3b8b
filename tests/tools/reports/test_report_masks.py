"""The parts of a report that concern masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as reference

from tools.evaluation.detections import Detections
from tools.evaluation.engines import HotcocoEngine
from tools.evaluation.summary import METRICS
from tools.reports.masks import mask_sections, mask_tables, pair_blocks
from tools.reports.page import Gallery, SortableTable
from tools.runs.folder import RunFolder
from tools.runs.mask_pairs import mask_pairs


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


def test_mask_iou_stands_against_box_iou_and_the_worst_masks_are_drawn(tmp_path: Path) -> None:
    """The mask fills 10 of 20 columns of its object, and one pixel of the last: 201 of 400 pixels.

    Its box is that of the object. A second detection has a score below the report's.
    """
    half = np.zeros((60, 80), np.uint8, order="F")
    half[10:30, 10:20], half[29, 29] = 1, 1
    code = reference.encode(half)
    outline: Any = {"size": [60, 80], "counts": code["counts"].decode()}
    shape = {"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]], "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    truth: dict[str, object] = {
        "images": [{"id": key, "height": 60, "width": 80} for key in (5, 6)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 3, **shape}],
    }
    rows = np.array([[5, 10, 10, 20, 20, 0.9, 3], [5, 10, 10, 20, 20, 0.1, 3], [5, 10, 10, 20, 20, 0.9, 4]])
    matching = HotcocoEngine(truth, masks=True).matching(Detections(rows, [outline] * 3), [5, 6], iou="segm")
    (pair,) = mask_pairs(matching, [5, 6], score=0.5)
    assert (pair.image, pair.box_iou, pair.mask_iou) == (5, 1.0, 201 / 400)
    cv2.imwrite(str(tmp_path / "5.png"), np.full((60, 80, 3), 128, np.uint8))
    paths = {5: tmp_path / "5.png", 6: tmp_path / "absent.png"}
    table, gallery = pair_blocks([pair], {3: "cat", 4: "dog"}, paths, bits=16, number=8)
    assert isinstance(table, SortableTable) and isinstance(gallery, Gallery)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["cat", "1", "100.0", "50.2"],
        ["dog", "0", "n/a", "n/a"],
    ]
    assert len(gallery.items[0].images) == 1 and gallery.items[0].text == "mask IoU 0.50, box IoU 1.00; 5"
    assert mask_sections([], score=0.5, number=8) == []
