"""Classes of label maps without a pixel: a segmentation run drops them, and its evaluation and reports know it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from label_exports import photo, save

from backbones.errors import UserError
from tools.cli.parsing import parse
from tools.engine.bad_images import BadImages
from tools.engine.checkpoint import write_safetensors
from tools.runs.folder import RunFolder
from tools.runs.segmentation import _open_source
from tools.tasks.options import COMMANDS, TrainSegmenterOptions
from tools.tasks.segmentation import _categories_entry, _described
from tools.tasks.segmentation_data import open_data


@pytest.fixture
def insects(tmp_path: Path) -> Path:
    """Ants (1) in training, flies (4) in validation, and bees (2) and cows (3) in no image."""
    root = tmp_path / "insects"
    for name, label in (("train/a", 1), ("train/b", 0), ("val/c", 4)):
        photo(root / "images" / f"{name}.jpg")
        save(root / "labels" / f"{name}.png", np.array([[0, label, 255]] * 4, np.uint8).repeat(2, axis=1))
    (root / "classes.txt").write_text("background\nant\nbee\ncow\nfly\n")
    return root


def opened(data: Path, *words: Any):
    argv = ["--data", str(data), *map(str, words)]
    further = COMMANDS["train_seg"].further
    options = parse(TrainSegmenterOptions, description="", argv=argv, further=further)
    return open_data(options, BadImages(data.parent / "run", skip=False, seed=0))


def weights_of(folder: Path, *names: str) -> Path:
    path = folder / "w.safetensors"
    header = {"task": "segmentation", "model": {}, "classes": ["background", *names]}
    write_safetensors(path, {"x": torch.zeros(1)}, {"meta": json.dumps(header)})
    return path


def test_classes_that_no_split_has_are_dropped_with_a_note_unless_they_are_to_stay(insects: Path):
    data = opened(insects)
    assert data.train is not None
    for split in (data.train, data.val):
        assert split.source.classes.names == ("background", "ant", "fly")
        assert "unused classes dropped (bee, cow): 2" in _described(split)
    assert data.val.source.labels(0, (4, 6))[0].tolist() == [0, 0, 2, 2, 255, 255]
    assert opened(insects, "--keep-unused").val.source.classes.names == ("background", "ant", "bee", "cow", "fly")
    # Both parts of a split that the run makes come from the training images, which show no fly.
    parts = opened(insects, "--val-split", "none", "--val-fraction", 0.5)
    assert parts.train is not None and parts.val.source.classes.names == ("background", "ant")
    assert parts.train.source is not None and parts.train.source.classes.names == ("background", "ant")


def test_an_evaluation_keeps_the_classes_of_its_model(insects: Path, tmp_path: Path):
    def evaluated(*names: str) -> tuple[str, ...]:
        return opened(insects, "--eval-only", "--weights", weights_of(tmp_path, *names)).val.source.classes.names

    assert evaluated("ant", "fly") == ("background", "ant", "fly")
    assert evaluated("ant", "bee", "cow", "fly") == ("background", "ant", "bee", "cow", "fly")
    assert evaluated("ant") == ("background", "ant", "fly")  # the images have it: building the model refuses it
    unnamed = tmp_path / "plain.safetensors"
    write_safetensors(unnamed, {"x": torch.zeros(1)}, {})
    every = opened(insects, "--eval-only", "--weights", unnamed)
    assert every.val.source.classes.names == ("background", "ant", "bee", "cow", "fly")


def test_a_resumed_run_and_its_report_have_the_classes_of_the_run(insects: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    # A run of an earlier version, which kept every class.
    weights_of(tmp_path, "ant", "bee", "cow", "fly").rename(run / "model.safetensors")
    data = opened(insects, "--resume", "--output", run)
    assert data.val.source.classes.names == ("background", "ant", "bee", "cow", "fly")
    for names in (("background", "ant", "fly"), ("background", "ant", "bee", "cow", "fly")):
        results = {"per_class": dict.fromkeys(names, 0.5)}
        report = RunFolder(run, "run", "segmentation", {"data": str(insects)}, results, [])
        assert _open_source(report, None).classes.names == names


def test_a_label_map_that_cannot_be_read_is_named(insects: Path):
    (insects / "labels" / "train" / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b\.png: "):
        opened(insects)


def test_an_evaluation_uses_the_choice_that_the_weights_record(insects: Path, tmp_path: Path):
    words = ("--data", str(insects), "--merge-classes", "bug=ant,fly")
    entry = _categories_entry(parse(TrainSegmenterOptions, description="", argv=words).data)
    weights = tmp_path / "w.safetensors"
    header = {"task": "segmentation", "model": {}, "classes": ["background", "bug"], **entry}
    write_safetensors(weights, {"x": torch.zeros(1)}, {"meta": json.dumps(header)})
    assert opened(insects, "--eval-only", "--weights", weights).val.source.classes.names == ("background", "bug")
    assert not _categories_entry(parse(TrainSegmenterOptions, description="", argv=words[:2]).data)
