"""The RoI heads have torchvision's losses and detections, and append the whole image to each box on request."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.ops import MultiScaleRoIAlign

from detection.necks import BoxHead
from detection.roi_heads import RoIHeads

SHAPES = [(64, 96), (64, 80)]  # height and width of two images
TRUTH = [torch.tensor([[0.0, 0, 20, 20], [40, 30, 90, 60]]), torch.tensor([[50.0, 20, 80, 60]])]
TARGETS = [{"boxes": boxes, "labels": torch.arange(1, 1 + len(boxes))} for boxes in TRUTH]
FEATURES = {"p2": torch.randn(2, 8, 16, 24, generator=torch.Generator().manual_seed(0))}


class Flat(BoxHead):
    """Turns RoI features `[R, 8, 2, 2]` into vectors `[R, 32]`."""

    out_channels = 32

    def forward(self, rois: Tensor) -> Tensor:
        return rois.flatten(1)


class Corners(nn.Module):
    """A pool whose RoI features are the boxes themselves."""

    def forward(self, features: object, boxes: list[Tensor], shapes: object) -> Tensor:
        return torch.cat(boxes)


class Unchanged(BoxHead):
    """Passes vectors of four numbers on."""

    out_channels = 4

    def forward(self, rois: Tensor) -> Tensor:
        return rois


def spread(heads: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.2)
    return heads


def ours(threshold: float = 0.05, most: int = 10) -> RoIHeads:
    options = {"rois_per_image": 16, "score_threshold": threshold, "max_detections": most}
    return spread(RoIHeads(MultiScaleRoIAlign(["p2"], 2, 2), Flat(), 3, context=False, **options))


def torchvisions(threshold: float = 0.05, most: int = 10) -> TorchvisionRoIHeads:
    pool, predictor = MultiScaleRoIAlign(["p2"], 2, 2), FastRCNNPredictor(32, 4)
    return spread(TorchvisionRoIHeads(pool, Flat(), predictor, 0.5, 0.5, 16, 0.25, None, threshold, 0.5, most))


def proposals() -> list[Tensor]:
    """Return true boxes moved by up to 16 pixels, with IoUs on both sides of 0.5, and boxes anywhere."""
    random = torch.Generator().manual_seed(1)
    found = []
    for truth in TRUTH:
        near = truth.repeat(20, 1) + 16 * torch.rand(20 * len(truth), 4, generator=random) - 8
        corner = torch.rand(30, 2, generator=random) * 50
        anywhere = torch.cat([corner, corner + 2 + 28 * torch.rand(30, 2, generator=random)], dim=1)
        found.append(torch.cat([near, anywhere]).clamp(min=0, max=64))
    return found


def test_losses_equal_torchvisions():
    losses = []
    for heads in (torchvisions(), ours()):
        torch.manual_seed(2)  # both sample RoIs
        losses.append(heads.train()(FEATURES, proposals(), SHAPES, TARGETS)[1])
    torch.testing.assert_close(losses[1], losses[0])


@pytest.mark.parametrize("kept", [[0], [0, 1]])
def test_losses_of_one_image_and_of_an_image_without_objects_equal_torchvisions(kept: list[int]):
    targets = [TARGETS[0], {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    features = {"p2": FEATURES["p2"][kept]}
    boxes, shapes, targets = ([each[n] for n in kept] for each in (proposals(), SHAPES, targets))
    losses = []
    for heads in (torchvisions(), ours()):
        torch.manual_seed(2)  # both sample RoIs
        losses.append(heads.train()(features, boxes, shapes, targets)[1])
    torch.testing.assert_close(losses[1], losses[0])


@pytest.mark.parametrize(("threshold", "most"), [(0.05, 10), (0.3, 1000)])
def test_detections_equal_torchvisions(threshold: float, most: int):
    """The limit of detections cuts in the first case, the threshold in the second."""
    with torch.no_grad():
        expected, _ = torchvisions(threshold, most).eval()(FEATURES, proposals(), SHAPES)
        found, losses = ours(threshold, most).eval()(FEATURES, proposals(), SHAPES)
    torch.testing.assert_close(found, expected)
    assert losses == {} and len(found[0]["boxes"]) >= min(most, 11)


def test_detections_and_losses_in_one_call_are_those_of_both_modes():
    heads = ours()
    torch.manual_seed(2)
    _, expected = heads.train()(FEATURES, proposals(), SHAPES, TARGETS)
    detections, _ = heads.eval()(FEATURES, proposals(), SHAPES, TARGETS)
    torch.manual_seed(2)
    found, losses = heads.predict_with_losses(FEATURES, proposals(), SHAPES, TARGETS)
    torch.testing.assert_close((found, losses), (detections, expected))


def test_context_appends_the_whole_image_to_each_box():
    options = {"rois_per_image": 16, "score_threshold": 0.05, "max_detections": 10}
    heads = RoIHeads(Corners(), Unchanged(), 3, context=True, **options)
    assert heads.box_predictor.cls_score.in_features == 8
    seen: list[torch.Tensor] = []
    heads.box_predictor.register_forward_pre_hook(lambda _, given: seen.extend(given))
    boxes = [torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[9.0, 9, 10, 10]])]
    found = heads.score({}, boxes, [(64, 96), (40, 50)])
    assert found.logits.shape == (3, 4) and found.boxes is boxes
    (rows,) = seen
    assert rows.tolist() == [[1, 2, 3, 4, 0, 0, 96, 64], [5, 6, 7, 8, 0, 0, 96, 64], [9, 9, 10, 10, 0, 0, 50, 40]]


def test_16_bit_logits_leave_coordinates_exact():
    """bf16 has even numbers only from 256 on. A logit of 5 against three of 0 is a score of 0.98."""
    logits, deltas = torch.tensor([[0, 5.0, 0, 0]]).bfloat16(), torch.zeros(1, 16).bfloat16()
    boxes, scores, labels = ours().postprocess_detections(
        logits, deltas, [torch.tensor([[301.0, 303, 351, 333]])], [(600, 800)]
    )
    assert boxes[0].tolist() == [[301, 303, 351, 333]] and labels[0].tolist() == [1]
    assert scores[0].tolist() == pytest.approx([0.980187], abs=1e-5)  # e^5 / (e^5 + 3)
