"""Mutants of data sets with label maps: each is read with a defined result, or refused with a UserError.

`HOSTILE_SCALE=67 python -m pytest tests/segmentation/test_hostile_maps.py` tries 67 times as many.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hostile import mutated
from label_exports import DIVIDED, LABEL_EXPORTS

from backbones.errors import UserError
from segmentation.data.folders import open_source
from segmentation.options import SegmentationDataOptions

MUTANTS = 16 * int(os.environ.get("HOSTILE_SCALE", 1))
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
    path, random, refused = tmp_path / "set" / FILES[name], np.random.default_rng(1), 0
    whole = path.read_bytes()
    for _ in range(MUTANTS):
        path.write_bytes(mutated(random, whole))
        try:
            source = open_source(tmp_path / "set", "train", SegmentationDataOptions())
            for row in range(len(source)):
                labels = source.labels(row, source.size(row))
                assert labels.shape == source.size(row) and labels.dtype == np.uint8
                assert set(np.unique(labels).tolist()) <= {*range(len(source.classes)), 255}
                assert (tmp_path / "set") in source.file(row).resolve().parents
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000 and str(tmp_path) in str(error)
            refused += 1
    assert refused
