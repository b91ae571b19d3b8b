"""Run folders: their short names, and where their data is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from backbones.errors import UserError
from tools.runs.folder import RunFolder, read_runs
from tools.runs.outcomes import BoxPredictions
from tools.runs.segmentation import read_confusion

EARLIER = ROOT / "tests" / "data" / "earlier_runs"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["x/run"], ["run"]),
        (["x/weights_none-seed0", "x/weights_r18_seed0-seed0"], ["none", "r18_seed0"]),
        (["a/run", "b/run"], ["a", "b"]),
        (["det-20260101-120000", "det-20260102-120000"], ["20260101", "20260102"]),
        (["net", "net-b"], ["net", "net-b"]),
        (["resnet18", "resnet34"], ["resnet18", "resnet34"]),
    ],
)
def test_short_names_are_unique(known_run: Path, tmp_path: Path, folders: list[str], names: list[str]):
    paths = [shutil.copytree(known_run, tmp_path / folder) for folder in folders]
    assert [each.name for each in read_runs([str(path) for path in paths])] == names


def test_the_command_that_continues_a_run_quotes_spaces(known_run: Path, tmp_path: Path):
    folder = tmp_path / "my run"
    shutil.copytree(known_run, folder)
    (folder / "results.json").unlink()
    with pytest.raises(UserError, match=rf"continue it with --resume --output '{folder}'$"):
        RunFolder.read(folder)


def test_a_run_finds_its_data_from_another_folder(known_run: Path, coco, monkeypatch):
    """Paths of config.yaml count from the folder where the run was started; the run folder ends with `output`."""
    config = yaml.safe_load((known_run / "config.yaml").read_text())
    config |= {"data": coco.root.name, "output": "runs/known"}
    (known_run / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir("/")
    assert len(BoxPredictions.read(RunFolder.read(known_run), data=None, score=0.5).images) == 4


@pytest.mark.parametrize(
    ("task", "classes", "entry"),
    [
        ("cls", ("apple", "pear", "plum"), ("pear", {"recall": 1.0})),
        (
            "det",
            ("circle", "square", "triangle", "star", "ring", "cross"),
            ("circle", {"id": 1, "AP": 0.0125, "AP50": 0.03125, "images": 1, "boxes": 1}),
        ),
        (
            "seg",
            ("background", "circle", "square", "triangle", "star", "ring", "cross"),
            ("square", {"IoU": 0.07325619295958279}),
        ),
    ],
)
def test_metrics_by_class_of_an_earlier_version_have_the_present_form(task: str, classes, entry):
    """Earlier versions wrote a list for detectors, and bare numbers for the other tasks."""
    run = RunFolder.read(EARLIER / task)
    name, metrics = entry
    assert run.classes == classes and run.results["per_class"][name] == metrics
    assert [tuple(line["per_class"]) for line in run.lines] == [classes] * len(run.lines)
    assert set(run.lines[-1]["per_class"][name]) == set(metrics)


def test_the_confusion_matrix_is_read_from_its_file_or_from_the_results_of_an_earlier_version(tmp_path: Path):
    run = RunFolder.read(shutil.copytree(EARLIER / "seg", tmp_path / "seg"))
    assert read_confusion(run).sum() == run.results["pixels"] == 3 * 64 * 64
    (run.folder / "confusion.json").write_text('{"matrix": [[1, 2], [3, 4]]}')
    with pytest.raises(UserError, match=r"confusion.json: holds no confusion matrix that fits the run's list"):
        read_confusion(run)
