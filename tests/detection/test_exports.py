"""Exports of annotation tools are recognised, read, checked and evaluated from `--data` alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from exports import EXPORTS, OBJECTS

from detection.data.annotations import CocoAnnotations
from detection.data.folders import layout_of, open_split, read_annotations, splits_of
from detection.data.layouts.known import BUILT_IN
from detection.options import DetectionDataOptions
from tools.evaluation.evaluator import CocoEvaluator


def contents(data: CocoAnnotations) -> dict[str, list[tuple[str, list[float]]]]:
    """Return class and box (left, top, width, height) of the objects of each image, by file name."""
    found = {}
    for row, name in enumerate(data.file_names.tolist()):
        boxes, labels, _ = data.of_image(row)
        titles = [data.categories.names[label - 1] for label in labels]
        sides = [[x, y, right - x, bottom - y] for x, y, right, bottom in boxes.tolist()]
        found[Path(name).name] = list(zip(titles, sides))
    return found


@pytest.fixture(params=EXPORTS)
def export(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Return the name of a layout, and a data set that has it."""
    layout, write = EXPORTS[request.param]
    write(tmp_path / "set")
    return layout, tmp_path / "set"


def test_an_export_is_recognised_read_and_evaluated(export: tuple[str, Path]):
    layout, root = export
    known = layout_of(root)
    assert known is not None and known.name == layout
    expected = {
        name: [(label, pytest.approx(box, abs=1e-4)) for label, box in things] for name, things in OBJECTS.items()
    }
    for split in splits_of(root):
        data = CocoAnnotations.of(open_split(root, split))
        assert contents(data) == expected
        assert data.categories.names == ("cat", "dog")
        assert all((data.folder / name).is_file() for name in data.file_names)
    data = read_annotations(DetectionDataOptions(data=str(root)), "train")
    truth = data.source if isinstance(data.source, Path) else json.loads(data.source)
    evaluator = CocoEvaluator(truth, category_ids=data.categories.ids, image_ids=data.image_ids.tolist())
    for row, image in enumerate(data.image_ids):
        boxes, labels, _ = data.of_image(row)
        evaluator.update([{"boxes": boxes, "labels": labels, "scores": np.ones(len(boxes))}], [{"image_id": image}])
    assert evaluator.compute()["AP"] == pytest.approx(1)
    if len(splits_of(root)) > 1:
        assert len(read_annotations(DetectionDataOptions(data=str(root)), "val")) == 2


def test_every_layout_has_an_export():
    assert {layout for layout, _ in EXPORTS.values()} == set(BUILT_IN)
