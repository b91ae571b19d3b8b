"""Fully convolutional networks (Long, Shelhamer, Darrell 2015) on a backbone's declared features.

Four heads: FCN-32s scores the last feature alone; FCN-16s and FCN-8s add the scores of one and two finer features;
"dilated" is FCN-32s on a backbone whose last stages dilate instead of striding, as papers on ResNets have it.
Widths and strides follow from `feature_info` alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

import backbones
from backbones import Backbone, FeatureInfo
from backbones.base import PYRAMID
from backbones.errors import UserError
from backbones.weights.hub import resolve
from segmentation.losses import PixelLoss
from segmentation.weights import fill, read_segmenter

Head = Literal["dilated", "fcn32s", "fcn16s", "fcn8s"]
# Features that are scored, and the stride that a backbone is built with where nobody says another.
SCORED: dict[str, int] = {"dilated": 1, "fcn32s": 1, "fcn16s": 2, "fcn8s": 3}
STRIDES: dict[str, int] = {"dilated": 8, "fcn32s": 32, "fcn16s": 32, "fcn8s": 32}
AUX_WEIGHT = 0.4  # Zhao et al. 2017, as torchvision trains its nets


class FCN(nn.Module):
    """Images in, scores by class and pixel out.

    State-dict keys are those of torchvision's segmentation nets; `fusion` is ours.

    Attributes:
        backbone: what normalisation and freezing belong to.
        classifier: scores of the last feature.
        fusion: what adds the scores of finer features; None in FCN-32s and dilated nets.
        aux_classifier: scores of the feature before the last, in training only; None without.
        loss: turns scores and label maps into a scalar.
        load_report: what the weights gave; None where none were asked for.
    """

    def __init__(
        self,
        backbone: Backbone,
        classifier: nn.Module,
        fusion: Fusion | None,
        aux_classifier: nn.Module | None,
        *,
        loss: PixelLoss,
    ) -> None:
        super().__init__()
        self.backbone, self.classifier, self.fusion = backbone, classifier, fusion
        self.aux_classifier = aux_classifier
        self.loss = loss
        self.load_report = backbone.load_report

    def forward(self, images: Tensor, targets: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Scores, or with targets the training losses.

        Args:
            images: `[N, C, H, W]`, uint8, or floating and normalised with the backbone's mean and std.
            targets: `mask`, class numbers `[N, H, W]` from 0, 255 where no loss is wanted.

        Returns:
            `out` `[N, num_classes, H, W]`, and `aux` of the same shape in training mode; or scalars by loss name.
        """
        scores = self.scores(images)
        return scores if targets is None else self.losses(scores, targets["mask"])

    def losses(self, scores: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """Training losses of the scores at hand: without `aux`, as in evaluation mode, of `out` alone."""
        losses = {"loss_seg": self.loss(scores["out"], mask)}
        if "aux" in scores:
            losses["loss_aux"] = AUX_WEIGHT * self.loss(scores["aux"], mask)
        return losses

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """`out` and, in training mode, `aux`, at the images' size."""
        features = self.backbone(self.backbone.normalised(images))
        *_, before, last = [None, *(info.name for info in self.backbone.feature_info)]
        out = self.classifier(features[last])
        found = {"out": out if self.fusion is None else self.fusion(out, features)}
        if self.aux_classifier is not None and self.training:
            found["aux"] = self.aux_classifier(features[before])
        size = images.shape[-2:]
        return {name: F.interpolate(x, size=size, mode="bilinear", align_corners=False) for name, x in found.items()}

    def freeze_stages(self, stages: int) -> None:
        """Freeze the backbone's first stages (1: stem, 2: stem and c2, ...)."""
        self.backbone.freeze_stages(stages)


class Fusion(nn.Module):
    """Adds scores of finer features to those of the last, from coarse to fine (figure 3 of the FCN paper).

    The finer scores begin at zero and the enlargements as bilinear interpolation (section 4.2 there), so that training
    starts from FCN-32s.
    """

    def __init__(self, infos: tuple[FeatureInfo, ...], num_classes: int) -> None:
        super().__init__()
        *finer, last = infos
        self.names = [info.name for info in reversed(finer)]
        self.scores = nn.ModuleList(_from_zero(nn.Conv2d(info.channels, num_classes, 1)) for info in reversed(finer))
        strides = [info.stride for info in (last, *reversed(finer))]
        self.enlarge = nn.ModuleList(_bilinear(num_classes, coarse // fine) for coarse, fine in pairwise(strides))

    def forward(self, x: Tensor, features: dict[str, Tensor]) -> Tensor:
        """Scores `[N, K, h, w]` of the last feature -> scores at the finest one's size."""
        for name, score, enlarge in zip(self.names, self.scores, self.enlarge, strict=True):
            x = _fitted(enlarge(x), features[name].shape[-2:]) + score(features[name])
        return x


def build(
    backbone: str | Backbone,
    num_classes: int,
    *,
    head: str = "dilated",
    aux: bool = True,
    weights: str | os.PathLike[str] | None = None,
    norm: Literal["auto", "batch", "sync", "frozen", "group"] = "auto",
    output_stride: int | None = None,
    max_stride: int | None = None,
    in_channels: int = 3,
    loss: PixelLoss | None = None,
    **options: Any,
) -> FCN:
    """Build a segmentation net.

    Args:
        backbone: a name of the registry, or a `Backbone` with the features that the head asks for.
        num_classes: number of classes, the background counted where it is one.
        head: "dilated", "fcn32s", "fcn16s" or "fcn8s".
        aux: score the feature before the last as well, for a second loss in training.
        weights: for the backbone as in `backbones.build`; or "coco" (torchvision's fcn_resnet50 and 101, 21 classes),
            or a segmentation net's file, for everything.
        norm: of the backbone; "auto" is live batch norm, which segmentation trains with everywhere; "sync" is that with
            the statistics of all processes together, in the heads as well.
        output_stride: 8, 16 or 32; None is 8 for "dilated", else 32.
        max_stride: features of a larger stride are dropped with their stages; 16 ends a ResNet at c4, and an FCN-8s of
            it at stride 4, as small images want it. None keeps all. Only with a name.
        in_channels: channels of the images.
        options: further keywords of `backbones.build`; only with a name.

    Raises:
        UserError: wrong options, or weights that cannot be had or do not fit.
    """
    _check(num_classes, head)
    weights = resolve(weights)
    state = read_segmenter(weights, backbone)
    if isinstance(backbone, str):
        options |= {"output_stride": output_stride or STRIDES[head], "in_channels": in_channels}
        options |= {"norm": "batch" if norm in ("auto", "sync") else norm}
        if state is not None and norm == "frozen":
            options["norm"] = "batch"  # frozen once the weights are in
        levels = _levels(backbone, max(SCORED[head], 1 + aux), max_stride)
        trunk = backbones.build(backbone, weights=None if state is not None else weights, features=levels, **options)
    else:
        options |= {"output_stride": output_stride, "max_stride": max_stride, "in_channels": in_channels != 3}
        _refuse_ignored(norm=norm != "auto", **options)
        if weights is not None and state is None:
            raise UserError(f"weights {weights}: a backbone that is built already has its own; name a whole net's file")
        trunk = backbone
    model = _assemble(trunk, num_classes, head, aux, loss or PixelLoss())
    if state is not None:
        model.load_report = fill(model, state, source=str(weights))
        trunk.adopt_normalisation(str(weights))
        if norm == "frozen":
            backbones.freeze_batch_norm(trunk)
    if norm == "sync":
        backbones.synchronise_batch_norm(model)
    return model


def _assemble(trunk: Backbone, num_classes: int, head: str, aux: bool, loss: PixelLoss) -> FCN:
    infos = trunk.feature_info
    wanted = max(SCORED[head], 1 + aux)
    if len(infos) < wanted:
        has = ", ".join(info.name for info in infos)
        raise UserError(f"{trunk.name}: head {head!r} needs {wanted} features, the backbone gives {has}")
    fusion = Fusion(infos[-SCORED[head] :], num_classes) if SCORED[head] > 1 else None
    second = FCNHead(infos[-2].channels, num_classes) if aux else None
    return FCN(trunk, FCNHead(infos[-1].channels, num_classes), fusion, second, loss=loss)


def _refuse_ignored(**given: Any) -> None:
    names = [name for name, value in given.items() if value]
    if names:
        raise UserError(f"{', '.join(names)}: options go to backbones.build where the backbone is built already")


def _levels(name: str, count: int, max_stride: int | None) -> tuple[str, ...]:
    """The last `count` features of a net: of the pyramid's, or of a CIFAR net's own; named by log2 of their stride."""
    levels: tuple[str, ...] = PYRAMID
    if "/" not in name:
        with torch.device("meta"):
            levels = tuple(info.name for info in backbones.build(name, weights=None, features="all").feature_info)
    kept = [level for level in levels if max_stride is None or 2 ** int(level[1:]) <= max_stride]
    if len(kept) < count:
        raise UserError(f"max_stride={max_stride}: leaves {name} fewer than the {count} features that the head needs")
    return tuple(kept[-count:])


def _check(num_classes: int, head: str) -> None:
    if not isinstance(num_classes, int) or not 1 < num_classes <= 255:
        raise UserError(f"num_classes={num_classes!r}: expected a whole number from 2 to 255")
    if head not in SCORED:
        raise UserError(f"head={head!r}: expected one of {', '.join(map(repr, get_args(Head)))}")


def _from_zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _fitted(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maps cut or continued at their right and lower edges: strides round sizes up in some nets, down in others."""
    height, width = size
    more = (0, max(0, width - x.shape[-1]), 0, max(0, height - x.shape[-2]))
    return (F.pad(x, more, mode="replicate") if any(more) else x)[..., :height, :width]


def _bilinear(channels: int, factor: int) -> nn.Module:
    """A learnt enlargement that begins as bilinear interpolation, each class by itself."""
    if factor == 1:
        return nn.Identity()
    side = 2 * factor
    layer = nn.ConvTranspose2d(channels, channels, side, stride=factor, padding=factor // 2, bias=False)
    steps = 1 - (torch.arange(side) + 0.5 - factor).abs() / factor
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(channels), range(channels)] = steps[:, None] * steps[None, :]
    return layer
