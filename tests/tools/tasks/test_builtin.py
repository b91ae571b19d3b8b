"""The built-in shapes are evaluated only by weights that know shapes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from backbones.common.run_files import MODEL_FILE
from backbones.errors import UserError
from tools import train_cls, train_det, train_seg
from tools.engine.checkpoint import read_safetensors, write_safetensors
from tools.engine.options import RunOptions
from tools.tasks.builtin import built_in_data


def renamed(run: Path, to: Path, config: dict[str, str]) -> Path:
    """Write the weights of a run with other names of classes and other options in their header; return the file."""
    header, tensors = read_safetensors(run / MODEL_FILE)
    meta = json.loads(header["meta"])
    for key in {"classes", "category_names"} & set(meta):
        meta[key] = [f"sort {number}" for number in range(len(meta[key]))]
    write_safetensors(to, tensors, {**header, "meta": json.dumps(meta), "config": json.dumps(config)})
    return to


@pytest.mark.parametrize(
    ("task", "command", "config", "advice"),
    [
        ("cls", train_cls, {"data": "my photos"}, "--data 'my photos'"),
        ("det", train_det, {"data": "photos", "val_annotations": "val.json"}, "--data photos"),
        ("det", train_det, {"val_annotations": "val.json"}, "--val-annotations val.json"),
        ("seg", train_seg, {}, "--data DATA"),
    ],
)
def test_a_forgotten_data_set_is_asked_for(
    task: str, command: ModuleType, config: dict[str, str], advice: str, tiny_runs: dict[str, Path], tmp_path: Path
):
    weights = renamed(tiny_runs[task], tmp_path / "weights.safetensors", config)
    with pytest.raises(UserError) as caught:
        command.main(["--eval-only", "--weights", str(weights), "--output", str(tmp_path / "run")])
    assert str(caught.value) == (
        f"--weights {weights}: has none of the classes of the built-in shapes, which are evaluated because no data is "
        f"named; add {advice}"
    )


def test_weights_of_shapes_are_evaluated_on_the_built_in_ones(tiny_runs: dict[str, Path], tmp_path: Path):
    run = RunOptions(eval_only=True)
    for weights in (str(tiny_runs["det"]), str(tiny_runs["seg"])):
        assert built_in_data(lambda: tmp_path, run, weights) == tmp_path


@pytest.mark.parametrize("command", [train_cls, train_det, train_seg])
def test_an_empty_name_of_the_data_does_not_mean_the_built_in_ones(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^--data \.: "):
        command.main(["--data", "", "--dry-run"])
