"""Benchmark of detectors: speed of ours and of torchvision's in training and inference.

ResNet-50-FPN is torchvision's own `fasterrcnn_resnet50_fpn`, or `maskrcnn_resnet50_fpn` with masks; the other
detectors are assembled from torchvision's parts as its documentation shows. Batch norm is frozen in all of them, and so
are the stem and the first stage.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, Literal, TypedDict

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import detection
from backbones.errors import UserError
from backbones.norm import freeze_batch_norm
from detection.masks import paste
from detection.strips import strips_of_bitmaps
from tools.benchmarks.machine import device
from tools.benchmarks.models import BenchmarkModel, Calls, ModelJob
from tools.benchmarks.options import DetectOptions, Timing, split_list
from tools.benchmarks.settings import OURS, TORCHVISION
from tools.benchmarks.speed import RATIO_NOTE, WAITS_NOTE, WORK_NOTE, SpeedBenchmark

CLASSES = 90
HEIGHT, WIDTH, BOXES = 480, 640, 7  # typical of COCO's images
FROZEN_STAGES = 2  # the stem and the first stage
FROZEN_LAYERS = ("backbone.body.conv1", "backbone.body.layer1")  # torchvision's names of the same
BOTTLENECKS = ("resnet50", "resnet101", "resnet152")
RESNETS = ("resnet18", "resnet34", *BOTTLENECKS)
MASKS = "-masks"  # end of the name of a detector with a mask branch
SPREAD = 30  # factor on the classification weights: scores of random weights are too alike for any detection
NOTES = (
    "Images of 640x480 pixels with seven boxes each, resized to the short side that the model's name gives; 90 "
    f"classes; batch norm, the stem and c2 are frozen. {RATIO_NOTE} {WORK_NOTE} {WAITS_NOTE} "
    "Both libraries use the same weights; results.json has "
    "the largest difference of the losses in fp32 (`loss_difference`), as a fraction of the largest "
    "loss.",
    "Detectors with `-masks` are Mask R-CNNs. Each object is an ellipse that fills its box: torchvision's model gets "
    "bitmaps, ours strips, as each library's data set makes them. Inference includes pasting masks into the images.",
)
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


class Sizes(TypedDict):
    """Limits of a resized image's size: its short side gets `min_size` pixels, its long side at most `max_size`."""

    min_size: int
    max_size: int


@dataclass(frozen=True)
class MeasuredDetector(BenchmarkModel):
    """A detector to be measured in our library and in torchvision.

    Attributes:
        neck: a neck of `detection.build`.
        size: short side of the resized image in pixels.
        batch: images per step.
        masks: has a mask branch.
        alone: do not compare with torchvision, even if torchvision can build the model.
    """

    difference: ClassVar[str] = "loss_difference"
    lr: ClassVar[float] = 1e-6
    fixed_size: ClassVar[bool] = False
    backbone: str
    neck: str
    size: int
    batch: int
    classes: int = CLASSES
    masks: bool = False
    alone: bool = False

    def __str__(self) -> str:
        return f"{self.backbone}-{self.neck}{MASKS if self.masks else ''}"

    @classmethod
    def parse(cls, text: str, *, batch: int) -> MeasuredDetector:
        """Read a detector from text such as `resnet50-fpn:800`, or `resnet50-c4:400x1` with one image per step.

        Args:
            batch: images per step if the text does not name them.

        Raises:
            UserError: the text has another form.
        """
        name, _, input_ = text.partition(":")
        backbone, _, neck = name.removesuffix(MASKS).rpartition("-")
        size, _, images = input_.partition("x")
        if not (backbone and size.isdecimal() and int(size) and (not images or (images.isdecimal() and int(images)))):
            raise UserError(
                f"--nets {text}: expected BACKBONE-NECK:PIXELS or BACKBONE-NECK:PIXELSxIMAGES, such as resnet50-fpn:800"
            )
        return cls(backbone, neck, int(size), int(images or batch), masks=name.endswith(MASKS))

    @property
    def peers(self) -> list[str]:
        """Return the names of the other libraries that can build the same detector: ["torchvision"] or [].

        torchvision cannot dilate a ResNet's basic blocks, so it cannot build a detector that needs this. With masks,
        only its own ResNet-50-FPN is compared.
        """
        if self.masks and (self.backbone, self.neck) != ("resnet50", "fpn"):
            return []
        can_build = self.backbone in (BOTTLENECKS if self.neck == "dc5" else RESNETS)
        return [TORCHVISION] if can_build and not self.alone else []

    def build(self, library: str, weights: Path | None = None) -> nn.Module:
        """Build this detector with one library.

        Without a weights file the weights are random, and batch norm is not frozen.

        Raises:
            UserError: the model is unknown, or the file does not have all its weights.
        """
        sizes: Sizes = {"min_size": self.size, "max_size": 2 * self.size}
        if library == OURS:
            return self._build_ours(weights, sizes)
        model = _assemble(self, sizes)
        if weights:
            model.load_state_dict(torch.load(weights, weights_only=True))
            freeze_batch_norm(model)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(not name.startswith(FROZEN_LAYERS))
        return model

    def _build_ours(self, weights: Path | None, sizes: Sizes) -> nn.Module:
        norm: Literal["frozen", "batch"] = "frozen" if weights else "batch"
        model = detection.build(
            self.backbone, self.classes, neck=self.neck, weights=weights, norm=norm, masks=self.masks, **sizes
        )
        if weights:
            model.freeze_stages(FROZEN_STAGES)
        return model

    def calls(self, model: nn.Module, job: ModelJob) -> Calls:
        """Make random images and boxes; return functions that run the detector on them. The loss sums all terms."""
        images, targets = images_and_targets(job.library, self)
        pastes = self.masks and job.library == OURS  # torchvision's model pastes its masks itself

        def predict() -> object:
            found = model(images)
            return [paste(each["masks"], each["boxes"], (HEIGHT, WIDTH)) for each in found] if pastes else found

        return Calls(
            predict,
            lambda: torch.stack(list(model(images, targets).values())).sum(),
        )

    def share_weights(self, path: Path) -> float | None:
        """Save random weights with matching batch-norm statistics, and compare both libraries' losses in fp32.

        Returns:
            The largest difference between our value of a loss term and torchvision's, as a fraction of the largest
            term; None if torchvision is not compared.
        """
        torch.manual_seed(0)
        one = replace(self, batch=1)
        model = self.build(OURS).to(device()).train()
        # Let one forward pass set the running statistics.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model(*images_and_targets(OURS, one))
            model.get_parameter("roi_heads.box_predictor.cls_score.weight").mul_(SPREAD)
        torch.save(model.state_dict(), path)
        if not self.peers:
            return None
        expected, found = _losses(one, path)
        return max(abs(found[name] - loss) for name, loss in expected.items()) / max(expected.values())


class DetectBenchmark(SpeedBenchmark[MeasuredDetector]):
    """Benchmark of detectors: speed in training and inference.

    Raises:
        UserError: a model is unknown.
    """

    notes = NOTES

    def __init__(self, options: DetectOptions, timing: Timing) -> None:
        patterns = split_list(options.compared)
        specs = [MeasuredDetector.parse(text, batch=options.batch) for text in split_list(options.nets)]
        specs = [replace(spec, alone=not any(fnmatchcase(str(spec), each) for each in patterns)) for spec in specs]
        super().__init__(specs, options, timing)


def images_and_targets(library: str, spec: MeasuredDetector) -> Batch:
    """Make random images, and random boxes of about the number and sizes that COCO has.

    Returns:
        Images `[3, 480, 640]`, as bytes for our model and as floats in 0..1 for torchvision's. Targets with `boxes`
        `[7, 4]` xyxy in pixels and `labels` `[7]` from 1; with a mask branch also `strips` for our model and `masks`
        for torchvision's.
    """
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=random) for _ in range(spec.batch)]
    sides = torch.tensor([WIDTH, HEIGHT])
    targets = []
    for _ in range(spec.batch):
        corner = torch.rand(BOXES, 2, generator=random) * sides * 0.6
        boxes = torch.cat([corner, corner + (0.02 + torch.rand(BOXES, 2, generator=random) * 0.38) * sides], dim=1)
        labels = torch.randint(1, spec.classes + 1, (BOXES,), generator=random)
        targets.append({"boxes": boxes, "labels": labels})
        if spec.masks:
            masks = ellipses(boxes)
            targets[-1].update({"strips": strips_of_bitmaps(masks)} if library == OURS else {"masks": masks})
    targets = [{name: value.to(device()) for name, value in target.items()} for target in targets]
    return [image.to(device()) if library == OURS else image.to(device()) / 255 for image in images], targets


def ellipses(boxes: Tensor) -> Tensor:
    """Return the masks of ellipses that fill the boxes `[N, 4]`: `[N, 480, 640]` uint8."""
    low, high = boxes[:, :2, None, None], boxes[:, 2:, None, None]
    x, y = torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT)[:, None] + 0.5
    across, down = ((2 * at - low[:, i] - high[:, i]) / (high - low)[:, i] for i, at in enumerate((x, y)))
    return (across**2 + down**2 <= 1).byte()


def _losses(spec: MeasuredDetector, weights: Path) -> list[dict[str, float]]:
    """Return the loss terms of torchvision and of our detector, computed from the same proposals.

    Rounding may swap proposals of almost equal scores, so our detector gets torchvision's proposals.
    """
    first: list[object] = []

    def share(_module: nn.Module, _inputs: object, outputs: tuple[object, object]) -> tuple[object, object]:
        first.append(outputs[0])
        return first[0], outputs[1]

    losses = []
    for library in (TORCHVISION, OURS):
        model = spec.build(library, weights).to(device()).train()
        model.get_submodule("rpn").register_forward_hook(share)
        torch.manual_seed(1)  # both libraries sample anchors and proposals at random
        with torch.no_grad():
            found = model(*images_and_targets(library, spec))
            losses.append({name: loss.item() for name, loss in found.items()})
    return losses


def _assemble(spec: MeasuredDetector, sizes: Sizes) -> nn.Module:
    """Assemble a detector from torchvision's parts, as torchvision's documentation shows."""
    name, classes = spec.backbone, spec.classes + 1
    if spec.neck == "fpn" and name == "resnet50":
        build = maskrcnn_resnet50_fpn if spec.masks else fasterrcnn_resnet50_fpn
        return build(weights=None, weights_backbone=None, num_classes=classes, **sizes)
    if spec.neck == "fpn":
        trunk = resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
        return FasterRCNN(trunk, num_classes=classes, **sizes)
    dilate = [False, False, spec.neck == "dc5"]
    resnet = torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=dilate)
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    if spec.neck == "dc5":
        return FasterRCNN(
            _Trunk(resnet, "layer4"),
            num_classes=classes,
            rpn_anchor_generator=anchors,
            box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
            **sizes,
        )
    return FasterRCNN(
        _Trunk(resnet, "layer3"),
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        box_head=_LastStage(resnet.layer4),
        box_predictor=FastRCNNPredictor(_width(resnet.layer4), classes),
        **sizes,
    )


class _Trunk(nn.Module):
    """A ResNet cut off after a given layer. Its parameters are named as in detectors' weights files."""

    def __init__(self, resnet: nn.Module, last: str) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(resnet, {last: "0"})
        self.out_channels = _width(resnet.get_submodule(last))

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.body(images)


class _LastStage(nn.Module):
    """Box head of the C4 detector: applies the ResNet's last stage to RoI features and averages over positions."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, rois: Tensor) -> Tensor:
        return self.stage(rois).mean(dim=(2, 3))


def _width(layer: nn.Module) -> int:
    """Return the number of channels of a layer's output."""
    return [module for module in layer.modules() if isinstance(module, nn.Conv2d)][-1].out_channels
