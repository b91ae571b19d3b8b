"""Detectors of two libraries under one interface: built, given the same weights, made to step.

torchvision's own is `fasterrcnn_resnet50_fpn`; the others are assembled of its parts as its documentation tells. Batch
norm is frozen everywhere, and so are the stem and the first stage.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import detection
from backbones.errors import UserError
from backbones.norm import freeze_batch_norm
from tools.benchmarks.machine import device
from tools.benchmarks.rounds import Step
from tools.benchmarks.settings import OURS
from tools.benchmarks.steps import NetJob, placed, prediction, training

CLASSES = 90
HEIGHT, WIDTH, BOXES = 480, 640, 7  # of COCO's images on average
FROZEN_STAGES = 2
TORCHVISION = "torchvision"
BOTTLENECKS = ("resnet50", "resnet101", "resnet152")
RESNETS = ("resnet18", "resnet34", *BOTTLENECKS)
SPREAD = 30  # random classification scores are all alike: so many times as far apart, some are detections
LR = 1e-6  # random weights must not run away to infinity
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


@dataclass(frozen=True)
class Detector:
    """A detector to measure, and the size of its input.

    Attributes:
        size: short side in the net, in pixels.
        batch: images per step.
        alone: without a peer, even where one can build it.
    """

    backbone: str
    neck: str
    size: int
    batch: int
    classes: int = CLASSES
    alone: bool = False

    def __str__(self) -> str:
        return f"{self.backbone}-{self.neck}"

    @classmethod
    def parse(cls, text: str, *, batch: int) -> Detector:
        """From `resnet50-fpn:800`, or `resnet50-c4:400x1` where the images per step are its own.

        Raises:
            UserError: another form.
        """
        name, _, input_ = text.partition(":")
        backbone, _, neck = name.rpartition("-")
        size, _, images = input_.partition("x")
        if not (backbone and size.isdecimal() and int(size) and (not images or (images.isdecimal() and int(images)))):
            raise UserError(f"--nets {text}: expected BACKBONE-NECK:PIXELS or BACKBONE-NECK:PIXELSxIMAGES")
        return cls(backbone, neck, int(size), int(images or batch))

    @property
    def peers(self) -> list[str]:
        """The libraries that can build the same: torchvision, whose basic blocks do not dilate."""
        builds = self.backbone in (BOTTLENECKS if self.neck == "dc5" else RESNETS)
        return [TORCHVISION] if builds and not self.alone else []


class DetectorJob(NetJob):
    """A detector to measure."""

    net: Detector

    def prepare(self) -> Step:
        """Build net, input and optimizer; returns one training step or one prediction."""
        model = placed(build(self.library, self.net, self.weights), self)
        images, targets = images_and_targets(self.library, self.net)
        if self.mode == "infer":
            return prediction(lambda: model(images), self)
        return training(model, lambda: torch.stack(list(model(images, targets).values())).sum(), self, lr=LR)


def images_and_targets(library: str, net: Detector) -> Batch:
    """Noise, as bytes for ours and floats for the peers, and boxes as many and as large as COCO's."""
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=random) for _ in range(net.batch)]
    sides = torch.tensor([WIDTH, HEIGHT])
    targets = []
    for _ in range(net.batch):
        corner = torch.rand(BOXES, 2, generator=random) * sides * 0.6
        boxes = torch.cat([corner, corner + (0.02 + torch.rand(BOXES, 2, generator=random) * 0.38) * sides], dim=1)
        labels = torch.randint(1, net.classes + 1, (BOXES,), generator=random)
        targets.append({"boxes": boxes.to(device()), "labels": labels.to(device())})
    return [image.to(device()) if library == OURS else image.to(device()) / 255 for image in images], targets


def build(library: str, net: Detector, weights: Path | None) -> nn.Module:
    """A detector with the weights of a file, or random ones with live batch norm.

    Raises:
        UserError: an unknown net, or weights that do not fit all of it.
    """
    sizes: dict[str, Any] = {"min_size": net.size, "max_size": 2 * net.size}
    if library == OURS:
        neck: Any = net.neck  # detection names the ones there are
        norm: Any = "frozen" if weights else "batch"
        ours = detection.build(net.backbone, net.classes, neck=neck, weights=weights, norm=norm, **sizes)
        if weights:
            ours.freeze_stages(FROZEN_STAGES)
        return ours
    model = _assemble(net, sizes)
    if weights:
        model.load_state_dict(torch.load(weights, weights_only=True))
        freeze_batch_norm(model)
        stem = ("backbone.body.conv1", "backbone.body.layer1")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(stem))
    return model


def share_weights(net: Detector, path: Path) -> float | None:
    """Save random weights, with statistics that fit them, and compare the two libraries' losses in fp32.

    Returns:
        The largest difference between a loss of ours and torchvision's, as a share of the largest loss; None without a
        peer.
    """
    torch.manual_seed(0)
    model = build(OURS, net, None).to(device()).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(*images_and_targets(OURS, replace(net, batch=1)))
        model.roi_heads.box_predictor.cls_score.weight.mul_(SPREAD)  # type: ignore[operator,union-attr]
    torch.save(model.state_dict(), path)
    if not net.peers:
        return None
    wanted, found = _losses(replace(net, batch=1), path)
    return max(abs(found[name] - loss) for name, loss in wanted.items()) / max(wanted.values())


def _losses(net: Detector, weights: Path) -> list[dict[str, float]]:
    """torchvision's losses, and ours of the same proposals: of two that are as good, rounding would swap some."""
    proposals: list[Any] = []

    def share(_module: nn.Module, _inputs: Any, outputs: tuple[Any, Any]) -> tuple[Any, Any]:
        proposals.append(outputs[0])
        return proposals[0], outputs[1]

    losses = []
    for library in (TORCHVISION, OURS):
        model: Any = build(library, net, weights).to(device()).train()
        model.rpn.register_forward_hook(share)
        torch.manual_seed(1)  # both sample anchors and proposals
        with torch.no_grad():
            losses.append({name: loss.item() for name, loss in model(*images_and_targets(library, net)).items()})
    return losses


def _assemble(net: Detector, sizes: dict[str, Any]) -> nn.Module:
    options: dict[str, Any] = {"num_classes": net.classes + 1, **sizes}
    if net.neck == "fpn":
        if net.backbone == "resnet50":
            return fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **options)
        trunk = resnet_fpn_backbone(
            backbone_name=net.backbone, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        return FasterRCNN(trunk, **options)
    dilate = [False, False, net.neck == "dc5"]
    resnet = torchvision.models.get_model(net.backbone, weights=None, replace_stride_with_dilation=dilate)
    options["rpn_anchor_generator"] = AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    if net.neck == "dc5":
        return FasterRCNN(_Trunk(resnet, "layer4"), box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2), **options)
    head = _Stage(resnet.layer4)
    predictor = FastRCNNPredictor(_width(resnet.layer4), options.pop("num_classes"))
    parts = {"box_roi_pool": MultiScaleRoIAlign(["0"], 14, 2), "box_head": head, "box_predictor": predictor}
    return FasterRCNN(_Trunk(resnet, "layer3"), **parts, **options)


class _Trunk(nn.Module):
    """A net up to one layer, under the names that detectors' files have."""

    def __init__(self, resnet: nn.Module, last: str) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(resnet, {last: "0"})
        self.out_channels = _width(getattr(resnet, last))

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.body(images)


class _Stage(nn.Module):
    """C4's box head: the last layer over RoI features, averaged."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, rois: Tensor) -> Tensor:
        return self.stage(rois).mean(dim=(2, 3))


def _width(layer: nn.Module) -> int:
    """Channels of a layer's output."""
    return [m for m in layer.modules() if isinstance(m, nn.Conv2d)][-1].out_channels
