"""Responses and gradients: models computed by hand, real files, and user errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import size_of
from PIL import Image
from torch import nn

import backbones
import classification
from backbones.errors import UserError
from tools import analyse_responses
from tools.analysis.batch import read_batch
from tools.analysis.responses import kernel3x3, measure
from tools.cli.parsing import parse
from tools.engine.checkpoint import write_safetensors


class Net(nn.Module):
    """conv, norm, relu in place; a lone 1x1 conv; logits of the two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.last = nn.Conv2d(2, 2, 1, bias=False)

    def forward(self, x):
        return self.last(torch.relu_(self.norm(self.first(x)))).mean(dim=(2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of 3, 2 and 1 training images, 8x6 pixels, each of one grey."""
    for label, count in enumerate((3, 2, 1)):
        path = tmp_path / "data" / "train" / f"class{label}"
        path.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((6, 8, 3), 10 * label + number, np.uint8)).save(path / f"{number}.png")
    return tmp_path / "data"


def test_a_response_is_the_norms_output_before_the_nonlinearity():
    net = Net()
    nn.init.constant_(net.norm.weight, 3.0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first, last = measure(net, torch.randn(8, 1, 5, 5), torch.arange(8) % 2)
    assert (first.layer, first.kernel, last.layer, last.kernel) == ("first", (3, 3), "last", (1, 1))
    assert first.std == pytest.approx(3, rel=1 / 199)  # normalised to 1 over 200 values, times 3; before the relu
    assert kernel3x3([first, last]) == [first]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_layer_without_norm_counts_as_it_is_and_gradients_are_norms():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    nn.init.constant_(net[0].weight, 2.0)
    (one,) = measure(net, torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1), torch.tensor([0, 1]))
    assert one.std == pytest.approx(2)  # 2, 2, 6, 6: mean 4, std 2
    # Both logits are equal, so each image's gradient by them is (p - y) = (-.5, .5) and (.5, -.5); the weight's is the
    # mean of image x gradient: ((-.5 + 1.5) / 2, (.5 - 1.5) / 2) = (.5, -.5), whose norm is sqrt(.5).
    assert one.gradient == pytest.approx(0.5**0.5)


def test_too_few_images_and_hidden_convolutions_are_refused():
    with pytest.raises(UserError, match="at least 2"):
        measure(Net(), torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.long))
    with pytest.raises(UserError, match="no responses were recorded"):
        measure(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.long))


def test_images_come_from_every_class(folder: Path):
    backbone = backbones.build("resnet20", weights=None)
    images, labels, classes = read_batch(folder, 3, size=None, backbone=backbone)
    assert (images.shape, images.dtype, classes) == ((3, 3, 6, 6), torch.uint8, 3)
    assert labels.tolist() == [0, 0, 1]  # of 3, 2 and 1 images those at indices 0, 2 and 4
    assert images[:, 0, 0, 0].tolist() == [0, 2, 11]
    grey, _, _ = read_batch(folder, 2, size=4, backbone=backbones.build("resnet20", weights=None, in_channels=1))
    assert grey.shape == (2, 1, 4, 4)


def test_16_bit_images_are_read_with_the_bits_that_the_run_recorded(tmp_path: Path):
    """Values up to 4095 of 12 bits: 4095 >> 4 = 255; with all 16 bits, they would be nearly black and are refused."""
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "train" / name / "0.png"), np.full((32, 32, 3), 4095, np.uint16))
    backbone = backbones.build("resnet20", weights=None)
    assert read_batch(tmp_path, 2, size=None, backbone=backbone, bits=12)[0].unique().tolist() == [255]
    words = ["--data", str(tmp_path), "--images", "2", "--size", "32"]
    with pytest.raises(UserError, match="name the bits that the values use, such as --bits 12"):
        analyse_responses.main(["--backbones", "plain20", *words, "--output", str(tmp_path / "x")])
    run, old = save_run(tmp_path / "r20", 2, bits=12), save_run(tmp_path / "old", 2)
    analyse_responses.main(["--runs", str(run), *words, "--output", str(tmp_path / "recorded")])
    analyse_responses.main(["--runs", str(old), *words, "--bits", "12", "--output", str(tmp_path / "named")])
    rows = [
        list(csv.DictReader((tmp_path / out / "responses.csv").read_text().splitlines()))
        for out in ("recorded", "named")
    ]
    recorded, named = ([row["std"] for row in each if row["state"] == "initial"] for each in rows)
    assert recorded == named and len(named) == 19


def test_the_built_in_shapes(folder: Path, monkeypatch):
    monkeypatch.setattr("tools.synthetic.crops.prepare", lambda: folder)
    images, _, classes = read_batch(None, 4, size=32, backbone=backbones.build("resnet20", weights=None))
    assert (images.shape, classes) == ((4, 3, 32, 32), 3)


def save_run(path: Path, classes: int, **trained_input: int) -> Path:
    """Save a trained run: a model whose norms all scale by 2."""
    net = classification.build("resnet20", classes, weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 2.0)
    header = {
        "config": json.dumps({"backbone": "resnet20", "in_channels": 3, "norm": "batch", "epochs": 1}),
        "meta": json.dumps({"input": trained_input}),
    }
    write_safetensors(path / "model.safetensors", net.state_dict(), header)
    return path


def test_nets_and_runs_give_a_table_and_two_pictures(folder: Path, tmp_path: Path, capsys):
    run, out = save_run(tmp_path / "r20", 3), tmp_path / "out"
    words = ["--images", "6", "--size", "32", "--data", str(folder), "--output", str(out)]
    analyse_responses.main(["--backbones", "plain20", "--runs", str(run), *words])
    assert "responses.csv" in capsys.readouterr().out
    rows = list(csv.DictReader((out / "responses.csv").read_text().splitlines()))
    kinds = [(net, state) for net, state in dict.fromkeys((row["net"], row["state"]) for row in rows)]
    assert kinds == [("plain20", "initial"), ("r20", "initial"), ("r20", "trained")]
    # 20 layers: 19 convolutions, all of them 3x3, and the linear one; resnet20 uses option A, which adds none.
    assert [int(row["index"]) for row in rows if row["state"] == "trained"] == list(range(1, 20))
    assert {row["kernel"] for row in rows} == {"3x3"}
    for state, std in (("initial", 1), ("trained", 2)):
        stds = [float(row["std"]) for row in rows if row["state"] == state]
        assert stds == pytest.approx([std] * len(stds), rel=0.02)
    assert all(float(row["gradient_norm"]) > 0 for row in rows)
    assert {path.name for path in out.iterdir()} == set(analyse_responses.OUTPUTS)
    assert min(size_of(out / name)[0] for name in ("responses.png", "gradients.png")) > 600
    with pytest.raises(UserError, match=r"holds responses\.csv already"):
        analyse_responses.main(["--backbones", "plain20", *words])


def test_several_run_folders_may_follow():
    def runs(*words: str) -> list[str] | None:
        return parse(analyse_responses.AnalyseResponsesOptions, description="", argv=words).responses.runs

    assert runs("--runs", "a", "b", "--output", "c") == ["a", "b"]
    assert runs("--output", "c", "--backbones", "plain20") is None


def broken(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"no such thing")
    return path


USER_ERRORS = {
    "unknown net": (lambda _: ["--backbones", "plain21"], "plain21"),
    "no net": (lambda _: [], "name models, or run folders with --runs"),
    "no weights": (lambda path: ["--runs", path / "gone"], "has no model.safetensors"),
    "broken weights": (lambda path: ["--runs", broken(path / "b")], "is not a complete safetensors file"),
    "other classes": (lambda path: ["--runs", save_run(path / "r", 5)], "r: was trained on 5 classes"),
    "too few": (lambda _: ["--backbones", "resnet20", "--images", 7], "has 6 training images, fewer than --images 7"),
    "one": (lambda _: ["--backbones", "resnet20", "--images", 1], "--images 1: batch norm needs at least 2"),
    "no data": (lambda path: ["--backbones", "resnet20", "--data", path], "has no folder train/"),
}


@pytest.mark.parametrize("name", USER_ERRORS)
def test_user_errors_get_one_line(name: str, folder: Path, tmp_path: Path):
    make, text = USER_ERRORS[name]
    words = ["--data", folder, "--images", 4, "--size", 32, *make(tmp_path), "--output", tmp_path / "out"]
    with pytest.raises(UserError) as error:
        analyse_responses.main([str(word) for word in words])
    assert text in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").glob("*"))


def test_an_image_that_does_not_decode_is_named(folder: Path):
    (folder / "train" / "class0" / "0.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"class0/0\.png: does not decode"):
        read_batch(folder, 3, size=None, backbone=backbones.build("resnet20", weights=None))


def test_status_2_without_traceback(script, tmp_path: Path):
    done = script("analyse_responses.py", "--backbones", "x", "--images", 1, "--output", tmp_path / "o", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --images 1")
