"""Backbones and classifiers compile with torch.jit.script, and compute what they computed before."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

import backbones
import classification

CASES = [
    ("resnet18", {"norm": "group", "features": ("c2", "c5")}),
    ("resnet20", {}),
    ("plain20", {}),
    ("torchvision/mobilenet_v3_small", {}),
    ("timm/convnext_atto", {}),
    ("timm/swin_s3_tiny_224", {"features": "last"}),
]


def images(side: int = 37) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name, options", CASES)
def test_a_scripted_backbone_returns_the_same_features(name: str, options: dict) -> None:
    torch.manual_seed(0)
    model = backbones.build(name, weights=None, **options).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    with torch.no_grad():
        expected, found = model(images()), scripted(images())
    assert found.keys() == expected.keys()
    for level, value in expected.items():
        torch.testing.assert_close(found[level], value)


def test_a_scripted_backbone_trains_and_keeps_frozen_stages() -> None:
    torch.manual_seed(0)
    model = backbones.build("resnet20", weights=None)
    model.freeze_stages(2)
    scripted = torch.jit.script(model.train())
    scripted(images())["c2"].sum().backward()
    moving = scripted.state_dict()["layer3.0.bn1.num_batches_tracked"]
    assert moving == 1
    assert {name.split(".")[0] for name, p in scripted.named_parameters() if p.grad is not None} == {"layer2", "layer3"}


@pytest.mark.parametrize("name", ["resnet20", "torchvision/squeezenet1_1"])
def test_a_scripted_classifier_returns_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    model = classification.build(name, 3).eval()
    scripted = torch.jit.script(model)
    with torch.no_grad():
        torch.testing.assert_close(scripted(images(64)), model(images(64)))
