"""Grad-CAM: where a classifier finds a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import classification
from backbones.errors import UserError
from classification.explain import explain


def test_the_heat_of_a_linear_head_is_its_class_activation_map(tiny_runs: dict[str, Path]):
    """After average pooling, the mean gradient of class k at channel c is w[k, c] / (H W): CAM (Zhou et al. 2016)."""
    model = classification.load(tiny_runs["cls"], device="cpu", precision="fp32")
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    found = explain(model, image)
    view = model.read(image)[0]
    net = model.model
    with torch.no_grad():
        features = net.backbone(net.backbone.normalise(view[None]))[net.backbone.feature_info[-1].name]
        logits = net(view[None])[0]
    label = int(logits.argmax())
    assert (found.name, found.score) == (model.classes[label], float(logits[label]))
    cam = (net.fc.weight[label].detach()[:, None, None] * features[0]).sum(0).relu()
    cam = torch.nn.functional.interpolate(cam[None, None], size=view.shape[-2:], mode="bilinear")[0, 0]
    assert torch.allclose(found.heat, cam / cam.max().clamp(min=1e-12), atol=1e-5)  # of values up to 1, in fp32
    assert found.plot().size == (view.shape[2], view.shape[1]) and found.pixels.dtype == np.uint8
    other = model.classes[1 - label] if len(model.classes) == 2 else model.classes[label - 1]
    assert explain(model, image, other).name == other
    assert model(image).names[0] == found.name  # predictions afterwards are as before
    with pytest.raises(UserError, match="name='nothing': the model has no such class"):
        explain(model, image, "nothing")
