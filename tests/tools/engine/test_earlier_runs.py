"""Run folders, checkpoints and model files of version 0.1.0 load, predict and resume."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from tolerances import rounding

EARLIER = ROOT / "tests" / "data" / "earlier_runs"
EXPECTED = json.loads((EARLIER / "expected.json").read_text())
MAKER = runpy.run_path(str(ROOT / "tests" / "data" / "make_earlier_runs.py"))
COMMANDS = {"cls": "train_cls.py", "det": "train_det.py", "seg": "train_seg.py"}
# Other CPUs and numbers of threads sum in another order: EfficientNet and heads, of at most 64 channels of 3 x 3.
CLOSE = rounding(64 * 9, layers=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data that the runs were trained on, and copies of the runs."""
    folder = tmp_path_factory.mktemp("earlier")
    MAKER["make_data"](folder)
    for task in COMMANDS:
        shutil.copytree(EARLIER / task, folder / task)
    return folder


@pytest.mark.parametrize("task", COMMANDS)
def test_an_earlier_model_file_has_its_tensors(task: str):
    assert MAKER["checksum"](EARLIER / task / "model.safetensors") == EXPECTED[task]["sha256"]


def test_an_earlier_classifier_predicts_as_before():
    found, known = MAKER["predictions"](EARLIER / "cls"), EXPECTED["cls"]
    assert found["names"] == known["names"] and found["labels"] == known["labels"]
    np.testing.assert_allclose(found["probabilities"], known["probabilities"], rtol=CLOSE)


def test_an_earlier_detector_predicts_as_before():
    """Scores differ by less than 1e-4 from one box to the next, so boxes are compared as sets."""
    found, known = MAKER["predictions"](EARLIER / "det"), EXPECTED["det"]
    assert abs(found["count"] - known["count"]) <= 2  # at the score limit of 0.05
    np.testing.assert_allclose(sorted(found["scores"]), sorted(known["scores"]), rtol=CLOSE)
    pairs = np.abs(np.array(found["boxes"])[:, None] - np.array(known["boxes"])[None]).max(-1)
    assert (pairs.min(0) < 0.01).mean() >= 0.8


def test_an_earlier_segmenter_predicts_as_before():
    found, known = (
        np.array(each["labels_every_8"]) for each in (MAKER["predictions"](EARLIER / "seg"), EXPECTED["seg"])
    )
    assert (found == known).mean() >= 0.95  # pixels where two classes tie may differ between CPUs


@pytest.mark.parametrize("task", COMMANDS)
def test_an_earlier_run_resumes_to_its_last_step(task: str, folder: Path, script: Callable[..., Any]):
    """Three epochs of the classes (3 steps each) and of the shapes (2 steps each)."""
    done = script(COMMANDS[task], "--resume", "--output", task, "--patience", 0, cwd=folder)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (folder / task / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == {"cls": 9, "det": 6, "seg": 6}[task]
    before = [line for line in (EARLIER / task / "metrics.jsonl").read_text().splitlines()]
    assert (folder / task / "metrics.jsonl").read_text().splitlines()[: len(before)] == before
