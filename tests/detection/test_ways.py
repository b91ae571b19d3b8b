"""The way that detectors compute on a GPU, which waits seldom, gives the results of the way on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder
from torchvision.ops import batched_nms, complete_box_iou_loss

import detection
from backbones.common import devices
from detection import suppression
from detection.box_coder import CachedBoxCoder
from detection.box_predictor import IOU_WEIGHT, box_losses
from detection.sampling import sample_of_images
from detection.suppression import Candidates, best_of_images

SMALL = {"min_size": 64, "max_size": 96, "head_channels": 32, "fpn_channels": 32, "rois_per_image": 16, "proposals": 50}
SIZES = ((64, 80), (72, 64), (64, 64))
TARGETS = [
    {"boxes": torch.tensor([[4.0, 6, 40, 50], [30, 20, 70, 60]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    {
        "boxes": torch.tensor([[10.0, 10, 30, 34]]),
        "labels": torch.tensor([2]),
        "ignore": torch.tensor([[0.0, 0, 64, 30]]),
        "short_side": torch.tensor(48),
    },
]
CASES = [{"neck": "fpn"}, {"neck": "fpn", "masks": True}, {"neck": "c4", "masks": True}, {"neck": "dc5"}]
CASES += [{"neck": "fpn", "cascade": True}, {"neck": "fpn", "rpn_depth": 2, "box_loss": "ciou"}]


@pytest.fixture
def first_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both ways sample the first boxes, in place of random ones."""
    monkeypatch.setattr(torch, "randperm", lambda count, **options: torch.arange(count, **options))
    monkeypatch.setattr("detection.sampling.random_keys", lambda label: torch.linspace(1, 0, len(label)))


def on_both_ways(monkeypatch: pytest.MonkeyPatch, compute: Any) -> list[Any]:
    found = []
    for waits in (False, True):
        monkeypatch.setattr(devices, "reading_waits", lambda device, waits=waits: waits)
        found.append(compute())
    return found


def a_detector(**options: Any) -> torch.nn.Module:
    """Return a detector in double precision, so that no order depends on rounding, with scores that differ."""
    torch.manual_seed(0)
    model = detection.build("timm/test_resnet", 2, norm="batch", weights=None, **(SMALL | options)).double()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(30)
    return model


def images() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=random, dtype=torch.double) for size in SIZES]


def targets(*, masks: bool) -> list[dict[str, torch.Tensor]]:
    found = [{**target, "boxes": target["boxes"].double()} for target in TARGETS]
    for target, size in zip(found, SIZES, strict=True):
        if masks:
            target["masks"] = torch.zeros(len(target["boxes"]), *size, dtype=torch.uint8)
            for mask, (left, top, right, bottom) in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
                mask[top:bottom, left:right] = 1
    return found


@pytest.mark.usefixtures("first_sampled")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_gradients_and_detections_are_those_of_the_other_way(case: dict[str, Any], monkeypatch):
    model = a_detector(**case)
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def step() -> object:
        model.load_state_dict(start)
        losses = model.train()(images(), targets(masks=model.has_masks))
        sum(losses.values()).backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        model.zero_grad()
        with torch.no_grad():
            return losses, gradients, model.eval()(images())

    one, other = on_both_ways(monkeypatch, step)
    torch.testing.assert_close(other, one)
    assert len(one[2][0]["boxes"]) > 10


def boxes_of(count: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 60, (count, 2), generator=random)
    return torch.cat([corner, corner + torch.randint(1, 30, (count, 2), generator=random)], dim=1).float()


@pytest.mark.parametrize("most_boxes", [1, 130, 1000])
def test_suppression_of_all_images_together_equals_that_of_each(most_boxes: int, monkeypatch: pytest.MonkeyPatch):
    """Whole coordinates stay exact when they are shifted. Some scores are equal."""
    monkeypatch.setattr(suppression, "MOST_BOXES", most_boxes)
    sizes, random = [60, 0, 70, 50], torch.Generator().manual_seed(0)
    boxes, total = boxes_of(180, seed=1), 180
    scores = torch.randint(0, 40, (total,), generator=random) / 40
    groups = torch.randint(0, 3, (total,), generator=random)
    usable = torch.rand(total, generator=random) > 0.2
    limits = {"threshold": 0.3, "most": 20}
    found = best_of_images(Candidates(boxes, scores, groups, usable, sizes, count=3), **limits)
    begin = 0
    for own, size in zip(found, sizes, strict=True):
        part = torch.where(usable[begin : begin + size])[0] + begin
        expected = part[batched_nms(boxes[part], scores[part], groups[part], 0.3)][:20]
        assert torch.equal(own, expected)
        begin += size
    assert [len(own) for own in found] == [20, 0, 20, 20]
    none = Candidates(boxes[:0], scores[:0], groups[:0], usable[:0], [0, 0], count=3)
    nothing = best_of_images(none, **limits)
    assert [each.tolist() for each in nothing] == [[], []]


@pytest.mark.parametrize("size", [8, 20, 1000])
def test_as_many_boxes_are_sampled_as_torchvision_samples(size: int):
    labels = [torch.tensor([1, 0, -1, 3, 0, 0, 2, 1] * 3), torch.zeros(9), torch.full((5,), -1.0)]
    sampler = BalancedPositiveNegativeSampler(size, 0.25)
    expected = sampler(labels)
    found = sample_of_images(labels, sampler)
    for label, own, positive, negative in zip(labels, found, *expected, strict=True):
        assert (len(own.positive), len(own.negative)) == (positive.sum(), negative.sum())
        assert (label[own.positive] >= 1).all() and (label[own.negative] == 0).all()
        assert len(set(own.positive.tolist())) == len(own.positive)
        assert len(set(own.negative.tolist())) == len(own.negative)


def test_every_box_is_sampled_equally_often():
    """Each of 4 negatives is drawn with probability 1/2. In 400 draws, 5 std are 5 * sqrt(400 / 4) = 50."""
    torch.manual_seed(0)
    sampler = BalancedPositiveNegativeSampler(2, 0.5)
    drawn = torch.cat([sample_of_images([torch.zeros(4)], sampler)[0].negative for _ in range(400)])
    assert ((drawn.bincount() - 200).abs() < 50).all() and len(drawn) == 800


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_the_coder_has_torchvisions_bits(weights: tuple[float, float, float, float]):
    boxes, truth = boxes_of(50, seed=2), boxes_of(50, seed=3)
    deltas = 8 * torch.randn(50, 12, generator=torch.Generator().manual_seed(4))  # some are limited
    theirs, ours = BoxCoder(weights), CachedBoxCoder(weights)
    assert torch.equal(ours.encode_single(truth, boxes), theirs.encode_single(truth, boxes))
    assert torch.equal(ours.decode_single(deltas, boxes), theirs.decode_single(deltas, boxes))
    assert ours.decode_single(deltas[:0], boxes[:0]).shape == (0, 12)


def test_the_box_loss_reads_the_positives_only():
    """The background has no true box: its deltas would be infinite."""
    boxes, labels = boxes_of(4, seed=2), torch.tensor([0, 2, 0, 1])
    truth = torch.where(labels[:, None] > 0, boxes + torch.tensor([1.0, -1, 2, 3]), 0)
    logits, deltas = torch.zeros(4, 3), torch.randn(4, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    coder = CachedBoxCoder((10.0, 10.0, 5.0, 5.0))
    own = deltas.unflatten(1, (3, 4))[[1, 3], [2, 1]]
    expected = {
        "smooth_l1": torch.nn.functional.smooth_l1_loss(
            own, coder.encode_single(truth, boxes)[[1, 3]], beta=1 / 9, reduction="sum"
        ),
        "ciou": IOU_WEIGHT
        * complete_box_iou_loss(coder.decode_single(own, boxes[[1, 3]]), truth[[1, 3]], reduction="sum"),
    }
    for kind, value in expected.items():
        found = box_losses(logits, deltas, labels, boxes, truth, coder=coder, kind=kind)[1]
        (gradient,) = torch.autograd.grad(found, deltas)
        torch.testing.assert_close(found, value / 4)
        torch.testing.assert_close(gradient, torch.autograd.grad(value / 4, deltas, retain_graph=True)[0])
