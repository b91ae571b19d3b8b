"""Weights of the data's classes in another order: each class keeps its own scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import segmentation
from backbones.errors import UserError
from tools.tasks.data import require_trained_on

# As many as the channels inside the head of resnet20, which must keep their order.
NAMES = [f"class {number}" for number in range(16)]


def test_each_class_of_a_head_keeps_its_scores_in_another_order(tmp_path: Path):
    torch.manual_seed(0)
    before = segmentation.build("resnet20", 16, head="fcn8s").eval()
    for value in before.parameters():
        torch.nn.init.normal_(value.data, std=0.1)
    path = tmp_path / "model.safetensors"
    save_file(before.state_dict(), path, {"meta": json.dumps({"classes": NAMES})})
    images, order = torch.randn(1, 3, 32, 48, dtype=torch.float64), [*range(15, 4, -1), *range(5)]
    names = [NAMES[number] for number in order]
    before.double()
    state = torch.random.get_rng_state()
    after = segmentation.build("resnet20", 16, head="fcn8s", weights=path, classes=names).double().eval()
    with torch.inference_mode():
        expected = before(images)["out"][:, order]
        found = after(images)["out"]
    # Each upsampling sums 16 classes x 4 pixels in another order: 2 x 64 roundings of 2^-53 are below 2e-14.
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    assert after.load_report is not None
    assert after.load_report.moved[:2] == ("class 15: 15 -> 0", "class 14: 14 -> 1")
    assert "16 matched by name under another number" in str(after.load_report)
    # Without names, or with others, the entries stay as they are, and the same numbers are drawn.
    drawn = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    plain = segmentation.build("resnet20", 16, head="fcn8s", weights=path)
    assert plain.load_report is not None and not plain.load_report.moved
    assert torch.equal(torch.random.get_rng_state(), drawn)
    require_trained_on(str(path), names)
    with pytest.raises(UserError, match="was trained on other classes than the data's"):
        require_trained_on(str(path), [*names[:-1], "zebra"])
