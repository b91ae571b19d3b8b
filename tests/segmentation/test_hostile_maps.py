"""Mutants of data sets with label maps: each is read with a defined result, or refused with a UserError."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hostile import mutants, require_one_line
from label_exports import DIVIDED, LABEL_EXPORTS

from backbones.errors import UserError
from segmentation.data.folders import open_source
from segmentation.options import SegmentationDataOptions

MUTANTS = 16
# Export -> the file to break.
FILES = {
    "cvat": "labelmap.txt",
    "labelme": "c.json",
    "label-studio": "project-1-at-2026-01-01.json",
    "label-studio-png": "task-12-annotation-12-by-me@x.org-tag-foreground-0.png",
    "flat": "masks/c.png",
    "folders": "classes.txt",
    "voc": "ImageSets/Segmentation/train.txt",
    "coco": "annotations/instances_train.json",
}


@pytest.mark.parametrize("name", FILES)
def test_mutants_of_label_maps_are_read_or_refused_with_one_line(name: str, tmp_path: Path):
    (LABEL_EXPORTS | DIVIDED)[name](tmp_path / "set")
    refused = 0
    for _ in mutants(tmp_path / "set" / FILES[name], MUTANTS):
        try:
            source = open_source(tmp_path / "set", "train", SegmentationDataOptions())
            for row in range(len(source)):
                labels = source.labels(row, source.size(row))
                assert labels.shape == source.size(row) and labels.dtype == np.uint8
                assert set(np.unique(labels).tolist()) <= {*range(len(source.classes)), 255}
                assert (tmp_path / "set") in source.file(row).resolve().parents
        except UserError as error:
            require_one_line(error, tmp_path)
            refused += 1
    assert refused
