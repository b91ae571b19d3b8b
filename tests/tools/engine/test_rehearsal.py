"""Dry runs: what they say, that they leave nothing, and what an experiment learns from them before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from backbones.errors import UserError
from tools import compare, train_cls, train_det, train_seg
from tools.engine.rehearsal import Rehearsal
from tools.experiments.cells import make_cells
from tools.experiments.plan import Plan, matrix_of, to_arguments
from tools.experiments.rehearse import rehearsals

DET = {
    "backbone": "timm/test_resnet",
    "min_size": 64,
    "max_size": 64,
    "fpn_channels": 32,
    "norm": "batch",
    "weights": "none",
    "batch_size": 8,
}
SEG = {"recipe": "shapes", "backbone": "timm/test_resnet", "crop_size": 32, "batch_size": 2}
SMALL = {"workers": 0, "threads": 1, "epochs": 3}


@pytest.mark.parametrize(("script", "own", "steps"), [(train_det, DET, 9), (train_seg, SEG, 36)])
def test_a_dry_run_counts_the_steps_and_leaves_nothing(
    script: Any, own: dict[str, Any], steps: int, small_shapes: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    line = to_arguments({"data": str(small_shapes), **SMALL, **own})  # 24 images, 8 or 2 at a time
    for output in ((), ("--output=runs/kept",)):
        found = script.main([*line, "--dry-run", *output])
        assert found.steps == steps
        assert 0 < found.seconds < 60
        out = capsys.readouterr().out
        assert str(found) in out
        assert Rehearsal.from_output(out) == found
        assert not (tmp_path / "runs" / "kept").exists()


def test_a_dry_run_of_a_classifier(tiny_runs: dict[str, Path], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((tiny_runs["cls"] / "config.yaml").read_text())
    kept = {name: config[name] for name in ("data", "backbone", "crop_size", "batch_size", "weights")}
    assert train_cls.main([*to_arguments({**kept, **SMALL}), "--dry-run"]).steps % 3 == 0
    assert list(tmp_path.rglob("*.*")) == []


def test_hours_are_of_all_steps():
    assert Rehearsal.from_output("ended early\n") is None
    assert str(Rehearsal(90_000, 0.2)) == "90,000 steps of 0.2 s: about 5 hours without evaluations"
    assert str(Rehearsal(1, 3600.0)).startswith("1 step of ")


def test_only_a_training_can_be_rehearsed():
    with pytest.raises(UserError, match="--dry-run: cannot be combined with --eval-only"):
        train_det.main(["--dry-run", "--eval-only"])


def detector(data: Path, matrix: dict[str, Any]) -> Plan:
    return Plan("train_det", to_arguments({"data": str(data), **SMALL, **DET}), (matrix_of(matrix, "matrix"),))


def test_each_net_is_rehearsed_once_and_each_share_of_the_data(small_shapes: Path, monkeypatch):
    asked = []

    def train(todo: Any, *, folder: Path, ended: Any, dry_run: bool, **_: Any) -> None:
        """Stands for processes, which would take their time."""
        assert dry_run
        for cell, _how in todo:
            asked.append(cell.name)
            (folder / f"{cell.name}.log").write_text(f"a line\n{Rehearsal(1234, 0.1).to_json()}\n")
            ended(cell, None)

    monkeypatch.setattr("tools.experiments.rehearse.train", train)
    made = make_cells(detector(small_shapes, {"fraction": [0.5, 1.0], "seed": [0, 1, 2]}))
    assert rehearsals(made, jobs=1) == {cell.name: Rehearsal(1234, 0.1) for cell in made}
    assert len(asked) == 3 + 1


def test_what_cannot_run_is_refused_before_anything_does(small_shapes: Path, forked_jobs: None, tmp_path: Path, capsys):
    options = {"data": str(small_shapes), **SMALL, **DET}
    matrix = {"norm": ["batch"], "accumulate": [1, 3]}
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump({"script": "train_det", "options": options, "matrix": matrix}))
    with pytest.raises(UserError, match=r"cell accumulate3-norm_batch: --batch-size 8: does not divide") as error:
        compare.main([str(file), "--output", str(tmp_path / "out")])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert "rehearsing" in capsys.readouterr().out
