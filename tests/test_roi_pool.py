"""RoIAlign by matrix products gives torchvision's numbers and gradients."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from backbones import FeatureInfo
from detection.roi_pool import RoIPool, align_by_products

BOXES = torch.tensor(
    [[0.0, 0, 20, 20], [3.3, 4.7, 9.1, 30], [-6, -9, 5, 5], [25, 10, 60, 55], [7, 7, 7.2, 7.1], [-50, -50, -20, -30]]
)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_equals_torchvisions_operator_and_its_gradient(samples: int):
    """Boxes inside, across the border, thinner than a cell, wholly outside; a map that is not square."""
    torch.manual_seed(0)
    features = torch.randn(3, 5, 11, 14, dtype=torch.float64, requires_grad=True)
    boxes = BOXES.double().repeat(2, 1)
    image = torch.tensor([0] * 4 + [2] * 8)  # none in the middle image
    rois = torch.cat([image[:, None].double(), boxes * 2], dim=1)
    expected = roi_align(features, rois, 7, spatial_scale=0.5, sampling_ratio=samples)
    found = align_by_products(features, boxes, image, 7, samples)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out * weights).sum(), features)[0] for out in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_levels_are_torchvisions(monkeypatch):
    torch.manual_seed(0)
    infos = [FeatureInfo(f"p{level}", 4, 2**level) for level in (2, 3, 4, 5)]
    maps = {info.name: torch.randn(2, 4, 256 // info.stride, 192 // info.stride) for info in infos}
    corner, side = torch.rand(60, 2) * 100, torch.rand(60, 2) ** 3 * 400 + 2
    boxes = [torch.cat([corner, corner + side], dim=1)[:25], torch.cat([corner, corner + side], dim=1)[25:]]
    theirs = MultiScaleRoIAlign([info.name for info in infos], 7, 2)
    expected = theirs(maps, boxes, [(256, 192)] * 2)
    ours = RoIPool(infos, 7, 2)
    torch.testing.assert_close(ours.eval()(maps, boxes, [(256, 192)] * 2), expected, rtol=0, atol=0)
    torch.testing.assert_close(ours.train()(maps, boxes, [(256, 192)] * 2), expected, rtol=1e-4, atol=1e-5)
    none = ours(maps, [torch.zeros(0, 4)] * 2, [(256, 192)] * 2)
    assert none.shape == (0, 4, 7, 7)
