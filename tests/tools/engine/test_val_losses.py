"""Losses of validation images: the training losses by hand, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import rounding
from torch.utils.data import DataLoader

import classification
import detection
import segmentation
from classification.model import ViewAverage
from segmentation.data.classes import IGNORE
from tools.engine.evaluation import MeanLosses, evaluate, same_draws
from tools.engine.state import Precision

CPU = torch.device("cpu")
FP32 = Precision(CPU, torch.float32)


class Kept:
    """An evaluator that computes what it got."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def update(self, predictions: Any, targets: Any) -> None:
        self.found.append(predictions)

    def state(self) -> Any:
        return self.found

    def merge(self, states: Any) -> None:
        (self.found,) = states

    def compute(self) -> dict[str, Any]:
        return {"found": self.found}


def classifier() -> tuple[Any, Any, list[Any]]:
    torch.manual_seed(0)
    net = classification.build("resnet20", 5)
    net.label_smoothing = 0.1
    batches = [
        ([torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8) for _ in range(2)],
         {"label": torch.arange(count), "index": torch.arange(count)})
        for count in (4, 2)
    ]  # fmt: skip
    return net, ViewAverage(net), batches


def segmenter() -> tuple[Any, Any, list[Any]]:
    torch.manual_seed(0)
    net = segmentation.build("resnet20", 3, head="fcn8s")
    sizes = (40, 48), (40, 48), (32, 40)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    masks = [torch.randint(0, 3, size, dtype=torch.uint8) for size in sizes]
    masks[0][:20] = IGNORE
    return net, segmentation.Predictor(net), [(images, {"mask": masks, "index": torch.arange(3)})]


def detector() -> tuple[Any, Any, list[Any]]:
    torch.manual_seed(0)
    net = detection.build("timm/test_resnet", 3, min_size=64, max_size=64, fpn_channels=16, head_channels=16)
    boxes = [torch.tensor([[4.0, 4, 30, 40], [20, 10, 60, 60]]), torch.zeros(0, 4)]
    targets = [
        {"boxes": box, "labels": torch.arange(len(box)) + 1, "ignore": torch.zeros(0, 4), "image_id": torch.tensor(i)}
        for i, box in enumerate(boxes)
    ]
    return net, net, [([torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in boxes], targets)]


TASKS = {"classification": classifier, "segmentation": segmenter, "detection": detector}


def measured(predictor: Any, batches: list[Any], **options: Any) -> dict[str, Any]:
    loader = DataLoader(batches, batch_size=None, generator=torch.Generator())
    return evaluate(predictor, loader, Kept(), precision=FP32, **options)


@pytest.mark.parametrize("task", TASKS)
def test_losses_and_predictions_of_one_pass_leave_no_trace(task: str):
    net, predictor, batches = TASKS[task]()
    net.train()
    before, random, given = copy.deepcopy(net.state_dict()), torch.get_rng_state(), copy.deepcopy(batches)
    plain = measured(predictor, batches)
    both = measured(predictor, batches, losses=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])] == []
    assert net.training and all(parameter.grad is None for parameter in net.parameters())
    assert repr(batches) == repr(given)
    assert repr(both.pop("found")) == repr(plain["found"])
    assert next(iter(both)) == "val_loss" and all(name.startswith("val_loss_") for name in list(both)[1:])
    assert both["val_loss"] == pytest.approx(sum(both[name] for name in list(both)[1:]))
    torch.rand(3)  # another random state draws the same samples
    assert measured(predictor, batches, losses=True)["val_loss"] == both["val_loss"]


def test_a_classifiers_loss_by_hand():
    """Means over views, weighted by images: 4 of one batch, 2 of the other."""
    net, predictor, batches = classifier()
    net.eval()
    total = 0.0
    for views, targets in batches:
        losses = [F.cross_entropy(net(view), targets["label"], label_smoothing=0.1).item() for view in views]
        total += len(targets["label"]) * sum(losses) / 2
    found = measured(predictor, batches, losses=True)
    assert found["val_loss"] == found["val_loss_cls"] == pytest.approx(total / 6, rel=rounding(6))


def test_a_segmenters_loss_by_hand():
    """Images of one size go through the net together, and share the mean over their labelled pixels."""
    net, predictor, [(images, targets)] = segmenter()
    net.eval()
    masks = [mask.long() for mask in targets["mask"]]
    together = F.cross_entropy(net(torch.stack(images[:2]))["out"], torch.stack(masks[:2]), ignore_index=IGNORE)
    alone = F.cross_entropy(net(images[2][None])["out"], masks[2][None], ignore_index=IGNORE)
    found = measured(predictor, [(images, targets)], losses=True)
    assert found["val_loss"] == pytest.approx(
        (2 * together.item() + alone.item()) / 3, rel=rounding(masks[0].numel() * 3)
    )


def test_a_detectors_losses_are_those_of_training_where_norm_rests():
    """64 x 64 pixels have fewer anchors than proposals are kept: training and evaluation sample of the same ones."""
    net, _, [(images, targets)] = detector()
    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with torch.no_grad(), same_draws(CPU):
        losses = net(images, targets)
    found = measured(net, [(images, targets)], losses=True)
    assert {name: found[f"val_{name}"] for name in losses} == {
        name: pytest.approx(loss.item(), rel=rounding(512 * 9, layers=25)) for name, loss in losses.items()
    }


def test_means_over_processes_and_what_is_no_number():
    """(2 x 3 + 1 x 6) / 3 = 4; a process without images adds nothing."""
    parts = [MeanLosses(), MeanLosses(), MeanLosses()]
    parts[0].add({"loss_a": torch.tensor(3.0), "loss_b": torch.tensor(1.0)}, 2)
    parts[1].add({"loss_a": torch.tensor(6.0), "loss_b": torch.tensor(torch.inf)}, 1)
    assert MeanLosses.figures(parts) == {"val_loss": None, "val_loss_a": 4.0, "val_loss_b": None}
    assert MeanLosses.figures([MeanLosses()]) == {}
