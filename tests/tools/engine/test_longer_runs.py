"""A finished run trains on with more epochs; its learning rate follows the schedule of the new length."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_classes
from safetensors.torch import load_file

from backbones.errors import UserError
from tools import train_cls

RATE = 0.01


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cls") / "data"
    write_classes(root, count=4, classes=("ant", "bee"))
    return root


def train(data: Path, run: Path, *words: Any) -> Path:
    options = ("--data", data, "--recipe", "cifar", "--backbone", "resnet20", "--batch-size", 4, "--lr", RATE)
    options += ("--warmup", 0, "--precision", "fp32", "--threads", 1, "--workers", 0, "--deliver", "last")
    train_cls.main([str(word) for word in (*options, *words, "--output", run)])
    return run


def test_a_longer_run_ends_with_the_bits_of_a_straight_one_if_the_rate_is_constant(data: Path, tmp_path: Path, capsys):
    straight = train(data, tmp_path / "straight", "--schedule", "constant", "--epochs", 2)
    run = train(data, tmp_path / "run", "--schedule", "constant", "--epochs", 1)
    train_cls.main(["--resume", "--output", str(run)])
    assert "the run has reached the end of its 1 epoch; a larger --epochs trains on" in capsys.readouterr().out
    train_cls.main(["--resume", "--output", str(run), "--epochs", "2"])
    assert (
        "the schedule now covers 2 epochs: the learning rate goes on at 0.01 instead of 0.01" in capsys.readouterr().out
    )
    weights = [load_file(folder / "model.safetensors") for folder in (straight, run)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    # config.yaml, the history and results.json hold the new length, and the run may not get shorter again.
    assert yaml.safe_load((run / "config.yaml").read_text())["epochs"] == 2
    changed = [{"step": 2, "options": {"epochs": [1, 2]}}]
    assert json.loads((run / "results.json").read_text())["options_changed"] == changed
    with pytest.raises(UserError, match=r"--epochs was 2, now 1\); .* \(--epochs may only become larger\)"):
        train_cls.main(["--resume", "--output", str(run), "--epochs", "1"])


def test_the_rate_goes_on_as_in_a_run_of_the_new_length(data: Path, tmp_path: Path, capsys):
    run = train(data, tmp_path / "run", "--schedule", "cosine", "--epochs", 1)
    train_cls.main(["--resume", "--output", str(run), "--epochs", "3"])
    # Step 2 of 6: 0.01 * (1 + cos(pi / 3)) / 2 = 0.0075. At the end of the shorter run it was 0.
    assert "goes on at 0.0075 instead of 0," in capsys.readouterr().out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line["lr"] for line in lines if "lr" in line][-1]
    assert math.isclose(last, RATE * (1 + math.cos(math.pi * 6 / 6)) / 2, abs_tol=1e-12)
