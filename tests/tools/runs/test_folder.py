"""Run folders: their short names, and where their data is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tools.runs.folder import RunFolder, read_runs
from tools.runs.outcomes import BoxPredictions


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


def test_a_run_finds_its_data_from_another_folder(known_run: Path, coco, monkeypatch):
    """Paths of config.yaml count from the folder where the run was started; the run folder ends with `output`."""
    config = yaml.safe_load((known_run / "config.yaml").read_text())
    config |= {"data": coco.root.name, "output": "runs/known"}
    (known_run / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir("/")
    assert len(BoxPredictions.read(RunFolder.read(known_run), data=None, score=0.5).images) == 4
