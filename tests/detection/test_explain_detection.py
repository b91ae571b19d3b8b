"""Grad-CAM of one detection: where a detector finds it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import detection
from backbones.errors import UserError
from detection.data.annotations import CategoryMap
from detection.explain import _heat, explain
from detection.results import Detection
from detection.trained import TrainedDetector

KINDS: dict[str, dict[str, Any]] = {
    "fpn": {"neck": "fpn", "masks": True},
    "cascade": {"neck": "fpn", "cascade": True},
    "c4": {"neck": "c4", "masks": True},
    "dc5": {"neck": "dc5"},
}


def test_the_heat_of_a_cell_is_gradient_times_value():
    """A linear score: its gradient is its weights. Cells whose product is negative count as 0."""
    values = torch.tensor([[[1.0, 2.0], [3.0, -4.0]], [[1.0, 1.0], [0.0, 2.0]]])[None].requires_grad_()
    weights = torch.tensor([[[1.0, -1.0], [2.0, 1.0]], [[3.0, 1.0], [5.0, 1.0]]])[None]
    other = torch.ones(1, 2, 1, 1, requires_grad=True)  # a level that the RoI is not read from
    heat = _heat((values * weights).sum(), {"p2": values, "p3": other}, (2, 2))
    # 1*1 + 1*3 = 4, 2*-1 + 1*1 = -1, 3*2 + 0*5 = 6, -4*1 + 2*1 = -2
    assert heat[0, 0].tolist() == [[4.0, 0.0], [6.0, 0.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_of_a_detection_is_near_its_box_and_its_score_that_of_the_heads(kind: str):
    torch.manual_seed(0)
    net = detection.build("timm/test_resnet", 3, min_size=128, max_size=256, **KINDS[kind]).eval()
    pixels = torch.rand(3, 128, 256)
    model = cast(
        TrainedDetector,
        SimpleNamespace(
            model=net,
            device=torch.device("cpu"),
            categories=CategoryMap((1, 2, 3), ("a", "b", "c")),
            read=lambda image: image,
            view=lambda image: (image * 255).byte().permute(1, 2, 0).numpy(),
        ),
    )
    box = (16.0, 32.0, 64.0, 96.0)
    found = {name: explain(model, pixels, Detection(box, 0.5, 2, name)) for name in "abc"}
    with torch.no_grad():
        batch, _ = net.transform([pixels])
        logits = net.roi_heads.score(net.backbone(batch.tensors), [torch.tensor([box])], batch.image_sizes).logits[0]
    assert [each.score for each in found.values()] == logits[1:].tolist()
    assert any(float(each.heat.max()) == 1 for each in found.values())
    # A box reads the cells that touch it; smoothing and interpolation add a cell each, cascades move the box.
    cell = max(info.stride for info in net.backbone.roi_features)
    for each in found.values():
        assert each.heat.shape == (128, 256) and each.plot().size == (256, 128)
        assert float(each.heat.min()) >= 0
        if kind != "cascade":
            assert not each.heat[:, 64 + 4 * cell :].any()


def test_only_detections_in_the_image_are_explained(tiny_runs: dict[str, Path]):
    model = detection.load(tiny_runs["det"], device="cpu", score=0.0)
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    found = model(image)
    name = found[0].name
    explained = explain(model, image, found[0])
    assert (explained.name, explained.box, explained.pixels.shape) == (name, found[0].box, (48, 64, 3))
    other = next(each for each in model.categories.names if each != name)
    assert explain(model, image, found[0], other).name == other
    with pytest.raises(UserError, match="name='nothing': the model has no such class"):
        explain(model, image, found[0], "nothing")
    with pytest.raises(UserError, match=r"^int: is no single detection; index the detections of the image: found\[0\]"):
        explain(model, image, 0)
    with pytest.raises(UserError, match="has no part of an image of 64x48 pixels"):
        explain(model, image, Detection((70.0, 0.0, 80.0, 9.0), 0.5, 1, name))
    assert torch.equal(model(image).boxes, found.boxes)  # predictions afterwards are as before
