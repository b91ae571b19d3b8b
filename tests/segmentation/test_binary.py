"""Models with one output for two classes: losses, probabilities, weights, and whole runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tolerances import assert_rounded

import segmentation
from backbones.errors import UserError
from tools import export, train_seg

QUICK = ("--backbone", "timm/test_resnet", "--head", "fcn32s", "--aux", "false", "--weights", "none", "--crop-size", 32,
         "--batch-size", 2, "--epochs", 1, "--workers", 0, "--threads", 1, "--binary", "true")  # fmt: skip


def test_one_output_is_trained_with_binary_cross_entropy_and_predicts_its_sigmoid():
    model = segmentation.build("resnet18", 2, head="fcn32s", aux=True, binary=True)
    images, mask = torch.rand(2, 3, 32, 32), torch.randint(0, 2, (2, 32, 32))
    mask[0, 0, :5] = 255
    scores = model.scores(images)
    assert scores["out"].shape == scores["aux"].shape == (2, 2, 32, 32) and not scores["out"][:, 0].any()
    z, known = scores["out"][:, 1], mask != 255
    expected = F.binary_cross_entropy_with_logits(z[known], mask[known].float()).detach()
    assert_rounded(model.losses(scores, mask)["loss_seg"].detach(), expected, terms=32 * 32 * 2)
    assert_rounded(scores["out"].softmax(1)[:, 1].detach(), z.sigmoid().detach(), terms=4)
    one, two = (segmentation.build("resnet18", 2, head="fcn32s", aux=False, binary=each) for each in (True, False))
    sizes = [sum(value.numel() for value in each.classifier.parameters()) for each in (one, two)]
    assert sizes[0] < sizes[1]
    with pytest.raises(UserError, match="--binary: needs two classes, but there are 3; leave the option out"):
        segmentation.build("resnet18", 3, head="fcn32s", aux=False, binary=True)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """Six images with a bright square, and masks of the values 0 and 255."""
    for split in ("train", "val"):
        for name in "abc":
            mask = np.zeros((32, 32), np.uint8)
            mask[8:24, 4:20] = 255
            for folder, pixels in (("images", np.stack([mask // 2 + 60] * 3, -1)), ("masks", mask)):
                path = tmp_path / "blobs" / folder / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path / "blobs"


def test_a_run_with_one_output_is_trained_resumed_evaluated_loaded_and_exported(blobs: Path, tmp_path: Path):
    run, weights = tmp_path / "run", tmp_path / "run" / "model.safetensors"

    def train(output: Path, *words: object) -> dict[str, object]:
        train_seg.main([str(word) for word in ("--output", output, *words)])
        return json.loads((output / "results.json").read_text())

    first = train(run, "--data", blobs, *QUICK)
    more = train(run, "--resume", "--epochs", 2)
    again = train(tmp_path / "eval", "--data", blobs, "--eval-only", "--weights", weights, "--workers", 0)
    assert first["images"] == again["images"] == 3 and again["per_class"] == more["per_class"]
    trained = segmentation.load(run)
    assert isinstance(trained.model, segmentation.FCN) and trained.model.binary
    export.main(["--run", str(run), "--format", "torch-export", "--output", str(tmp_path / "model.pt2")])
    assert (tmp_path / "model.pt2").is_file()
    (blobs / "classes.txt").write_text("foreground\nbackground\n")
    with pytest.raises(UserError, match="tells foreground from background, but the data list these classes in the"):
        train(tmp_path / "x", "--data", blobs, *QUICK, "--weights", weights)
