"""The model that a run delivers: the best one by default, the last one if it is asked for."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_noise
from safetensors.torch import load_file

from backbones.common.run_files import MODEL_FILE
from backbones.errors import UserError
from tools import train_cls
from tools.engine import checkpoint, loop
from tools.engine.experiment import Experiment
from tools.engine.run_folder import BEST, LAST, LAUNCHERS
from tools.engine.state import Training


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images of each class to train on; four of class a and one of class b to validate on."""
    return write_noise(tmp_path / "data", {("train", "a"): 4, ("train", "b"): 4, ("val", "a"): 4, ("val", "b"): 1}, 32)


@pytest.fixture
def worse_after_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model answer "a" for two epochs of two steps (4 of 5 are right), and "b" afterwards (1 of 5)."""
    update = loop.update_weights

    def update_and_answer(training: Training, **options: Any) -> None:
        update(training, **options)
        training.model.fc.weight.data.zero_()
        answer = [1.0, 0.0] if training.step <= 4 else [0.0, 1.0]
        training.model.fc.bias.data.copy_(torch.tensor(answer))

    monkeypatch.setattr(loop, "update_weights", update_and_answer)


def run(*words: object) -> None:
    train_cls.main([*map(str, words)])


def delivered(folder: Path) -> tuple[float, object, set[str]]:
    """Return accuracy, what was delivered, and the predicted classes."""
    results = json.loads((folder / "results.json").read_text())
    with open(folder / "predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return results["top1"], results["delivered"], {row["predicted"] for row in rows}


def words(data: Path, folder: Path, *more: object) -> tuple[object, ...]:
    return ("--data", data, "--recipe", "cifar", "--weights", "none", "--batch-size", 4, "--epochs", 6, "--workers", 0,
            "--threads", 1, "--output", folder, *more)  # fmt: skip


@pytest.mark.usefixtures("worse_after_two")
def test_the_best_model_is_delivered_after_early_stopping_and_again_on_resume(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "run"
    run(*words(data, folder, "--patience", 3))
    said = f"best top1 0.8000, after epoch 1: {folder / MODEL_FILE}"
    best = (0.8, {"model": "best", "step": 2, "epoch": 1.0}, {"a"})
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert delivered(folder) == best
    model, kept = load_file(folder / MODEL_FILE), load_file(folder / BEST)
    assert all(torch.equal(model[name], kept[name]) for name in kept)
    assert model["fc.bias"].tolist() == [1, 0]
    # The checkpoint still holds the last model, from which --resume continues.
    state = checkpoint.load(folder / LAST)["training"]
    assert (state["step"], state["model"]["fc.bias"].tolist()) == (8, [0, 1])
    for more in ((), ("--eval-only",)):
        run("--resume", "--output", folder, *more)
        assert capsys.readouterr().out.splitlines()[-1] == said
        assert delivered(folder) == best


@pytest.mark.usefixtures("worse_after_two")
def test_the_last_model_is_delivered_on_request_and_where_the_best_file_is_of_another_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "run"
    run(*words(data, folder, "--epochs", 3, "--deliver", "last"))
    last = (0.2, {"model": "last", "step": 6, "epoch": 3.0}, {"b"})
    assert delivered(folder) == last
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"best top1 0.8000, after epoch 1: {folder / BEST}",
        f"last model, after epoch 3: {folder / MODEL_FILE}",
    ]
    (folder / BEST).write_bytes((folder / MODEL_FILE).read_bytes())
    run("--resume", "--output", folder, "--deliver", "best")
    assert "best.safetensors: is of step 6, the best score of step 2; the last model is" in capsys.readouterr().err
    assert delivered(folder) == last


@pytest.mark.usefixtures("worse_after_two")
@pytest.mark.parametrize("which", ["best", "last"])
def test_a_finished_run_removes_its_checkpoints_on_request(data: Path, tmp_path: Path, which: str):
    folder = tmp_path / "run"
    kept: list[bool] = []

    def note(self: Experiment, training: Training, name: str) -> None:
        save(self, training, name)
        (folder / LAUNCHERS).write_text('["launch"]')  # as with torchrun
        kept.append((folder / LAST).is_file() and not (folder / LAST).with_name("last-1.safetensors").exists())

    save = Experiment.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "save", note)
        run(*words(data, folder, "--keep-checkpoints", 0, "--deliver", which))
    assert any(kept)  # there was one checkpoint while it trained
    # The best model stays if the delivered one is another.
    assert [file.name for file in folder.glob("checkpoint/*")] == ([] if which == "best" else ["best.safetensors"])
    assert (folder / BEST).parent.exists() == (which == "last")
    assert delivered(folder)[0] == (0.8 if which == "best" else 0.2)
    with pytest.raises(UserError, match=r"holds model.safetensors but no .*, as after --keep-checkpoints 0"):
        run("--resume", "--output", folder)
    run("--eval-only", "--weights", folder, "--data", data, "--workers", 0, "--output", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "results.json").read_text())["top1"] == delivered(folder)[0]


@pytest.mark.usefixtures("worse_after_two")
def test_the_last_model_that_is_the_best_one_is_kept_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "run"
    run(*words(data, folder, "--epochs", 1, "--deliver", "last", "--keep-checkpoints", 0))
    assert not (folder / BEST).parent.exists()
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"best top1 0.8000, after epoch 1: {folder / MODEL_FILE}",
        f"last model, after epoch 1: {folder / MODEL_FILE}",
    ]
