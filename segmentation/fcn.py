"""Fully convolutional networks (Long, Shelhamer, Darrell 2015) of any backbone and any registered head.

Widths and strides follow from the backbone's `feature_info` alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbones
from backbones import Backbone
from backbones.base import PYRAMID
from backbones.common.keywords import known_keywords
from backbones.common.numeric import whole_number
from backbones.errors import UserError
from backbones.weights.hub import resolve
from segmentation.heads import HEADS, Head
from segmentation.losses import PixelLoss
from segmentation.weights import fill, match_classes, read_segmenter, refuse_swapped

AUX_WEIGHT = 0.4  # weight of the second loss (Zhao et al. 2017), as torchvision trains its models


class FCN(nn.Module):
    """Fully convolutional network: maps images to scores per class and pixel.

    State-dict keys are those of torchvision's segmentation models, except for `fusion`, which those models do not have.

    Attributes:
        backbone: the backbone, which normalises images and can be frozen.
        classifier, fusion, aux_classifier: the modules of the head; see `Head`.
        loss: maps scores and label maps to a scalar.
        load_report: which entries of the weights were loaded; None with random weights.
        binary: whether the head has one output z for two classes. The scores are then 0 and z: their softmax is
            1 - sigmoid(z) and sigmoid(z), their cross-entropy the binary cross-entropy of z.
    """

    def __init__(self, backbone: Backbone, head: Head, *, loss: PixelLoss | None = None, binary: bool = False) -> None:
        super().__init__()
        self.binary = binary
        self.backbone = backbone
        self.classifier, self.fusion, self.aux_classifier = head
        self.loss = loss or PixelLoss()
        self.load_report = backbone.load_report

    def forward(self, images: Tensor, targets: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return scores, or, if targets are given, the training losses.

        Args:
            images: `[N, C, H, W]`, uint8, or floating and normalised with the backbone's mean and std.
            targets: `mask`, class numbers `[N, H, W]` from 0, and 255 for pixels to ignore.

        Returns:
            `out` `[N, num_classes, H, W]`, and `aux` of the same shape in training mode; or scalars by loss name.
        """
        scores = self.scores(images)
        return scores if targets is None else self.losses(scores, targets["mask"])

    def losses(self, scores: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """Return the training losses for the result of `scores`. Without `aux` there is no auxiliary loss."""
        losses = self.loss.terms("loss_seg", scores["out"], mask)
        if "aux" in scores:
            second = self.loss.terms("loss_aux", scores["aux"], mask)
            losses |= {name: AUX_WEIGHT * loss for name, loss in second.items()}
        return losses

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """Return `out` and, in training mode, `aux`: scores `[N, num_classes, H, W]` at the images' size."""
        features = self.backbone(self.backbone.normalise(images))
        *_, before, last = [None, *(info.name for info in self.backbone.feature_info)]
        # Score the last feature, then add the scores of finer ones.
        out = self.classifier(features[last])
        found = {"out": out if self.fusion is None else self.fusion(out, features)}
        if self.aux_classifier is not None and self.training:
            found["aux"] = self.aux_classifier(features[before])
        # Upsample the scores to the size of the images.
        size = images.shape[-2:]
        found = {name: F.interpolate(x, size=size, mode="bilinear", align_corners=False) for name, x in found.items()}
        return {name: torch.cat([torch.zeros_like(x), x], 1) for name, x in found.items()} if self.binary else found

    def compilable(self) -> dict[str, nn.Module]:
        """Return the parts by name that torch.compile can compile whole: the backbone and the modules of the head."""
        names = ("backbone", "classifier", "fusion", "aux_classifier")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    def freeze_stages(self, stages: int) -> None:
        """Freeze the first `stages` stages of the backbone (1: stem; 2: stem and c2; ...)."""
        self.backbone.freeze_stages(stages)


@known_keywords("segmentation.build", of=backbones.build)
def build(
    backbone: str | Backbone,
    num_classes: int,
    *,
    head: str = "dilated",
    aux: bool = True,
    binary: bool = False,
    weights: str | os.PathLike[str] | None = None,
    norm: Literal["auto", "batch", "sync", "frozen", "group"] = "auto",
    output_stride: int | None = None,
    max_stride: int | None = None,
    in_channels: int = 3,
    loss: PixelLoss | None = None,
    classes: Sequence[str] | None = None,
    recompute: bool = False,
    **options: Any,
) -> FCN:
    """Build a segmentation model.

    Args:
        backbone: a registered name, or a `Backbone` with the features that the head reads.
        num_classes: number of classes, the background included if it is one.
        head, aux, binary: see `SegmenterOptions` in segmentation/options.py.
        weights: for the backbone as in `backbones.build`; "coco" (torchvision's fcn_resnet50 and 101, 21 classes) or a
            segmentation model's file for the whole model; None for random weights.
        recompute: see `SegmenterOptions`.
        norm, output_stride, max_stride: see `SegmenterOptions`; only with a name.
        in_channels: channels of the images; only with a name.
        classes: names of the classes by number. If our weights file of a whole model has the same names in another
            order, the classes of its head are put into this order, and the report lists the classes that moved.
        loss: the training loss; None for the mean cross-entropy.
        options: further keywords of `backbones.build`; only with a name.

    Raises:
        UserError: wrong options, or weights that cannot be read or do not fit.
    """
    num_classes = whole_number("num_classes", num_classes, least=2, most=255)
    if binary and num_classes != 2:
        raise UserError(f"--binary: needs two classes, but there are {num_classes}; leave the option out")
    outputs = 1 if binary else num_classes
    weights = resolve(weights)
    state = read_segmenter(weights, backbone)
    whole, named = state is not None, {"output_stride": output_stride, "max_stride": max_stride, **options}
    if isinstance(backbone, str):
        named |= {"weights": weights, "norm": norm, "in_channels": in_channels}
        trunk = _build_trunk(backbone, head, aux=aux, whole=whole, **named)
    else:
        _refuse(norm=norm != "auto", in_channels=in_channels != 3, **named)
        _refuse_second_weights(weights, whole=whole)
        trunk = backbone
    model = FCN(trunk, _build_head(trunk, head, outputs, aux=aux), loss=loss, binary=binary)
    if state is not None:
        _fill(model, state, head, aux=aux, num_classes=outputs, source=str(weights), classes=classes)
        if norm == "frozen":
            backbones.freeze_batch_norm(trunk)
    if norm == "sync":
        backbones.synchronise_batch_norm(model)
    if recompute:
        model.backbone.recompute_activations()
    return model


def _fill(
    model: FCN,
    state: dict[str, Tensor],
    head: str,
    *,
    aux: bool,
    num_classes: int,
    source: str,
    classes: Sequence[str] | None,
) -> None:
    """Load the weights of a whole model; with `classes`, put the classes of its head into this order."""
    trunk = model.backbone
    model.load_report = fill(model, state, num_classes=num_classes, source=source)
    if model.binary:
        refuse_swapped(source, classes)
    elif classes is not None:
        match_classes(model, classes, lambda: FCN(trunk, _build_head(trunk, head, num_classes + 1, aux=aux)), source)
    trunk.adopt_normalisation(source)


def _build_trunk(
    name: str,
    head: str,
    *,
    aux: bool,
    weights: str | os.PathLike[str] | None,
    norm: str,
    whole: bool,
    output_stride: int | None,
    max_stride: int | None,
    **options: Any,
) -> Backbone:
    """Build the backbone of a registered name with the features that the head reads.

    Args:
        whole: whether the weights are those of a whole model, which fill the backbone once the model is complete.
    """
    # Frozen norm is made of batch norm after the weights of a whole model were loaded; sync norm at the end.
    live = norm in ("auto", "sync") or (norm == "frozen" and whole)
    return backbones.build(
        name,
        weights=None if whole else weights,
        features=_levels(name, max(HEADS[head].features, 1 + aux), max_stride),
        output_stride=output_stride or HEADS[head].output_stride,
        norm="batch" if live else norm,
        **options,
    )


def _refuse_second_weights(weights: str | os.PathLike[str] | None, *, whole: bool) -> None:
    """Refuse weights of a backbone for a backbone that is built already."""
    if weights is not None and not whole:
        raise UserError(
            f"weights {weights}: the backbone is built already and has its own weights; name a weights file of a "
            "whole segmentation model"
        )


def _build_head(trunk: Backbone, name: str, num_classes: int, *, aux: bool) -> Head:
    infos, head = trunk.feature_info, HEADS[name]
    count = max(head.features, 1 + aux)
    if len(infos) < count:
        has = ", ".join(info.name for info in infos)
        raise UserError(
            f"{trunk.name}: head {name!r} needs {count} features, but the backbone returns {has}; choose another "
            "head, or build the backbone with more features"
        )
    return head(infos[-count:], num_classes, aux=aux)


def _refuse(**given: object) -> None:
    """Refuse options of a backbone if the backbone is built already."""
    names = [name for name, value in given.items() if value]
    if names:
        raise UserError(
            f"{', '.join(names)}: cannot be chosen here, because the backbone is built already; pass these "
            "options to backbones.build"
        )


def _levels(name: str, count: int, max_stride: int | None) -> tuple[str, ...]:
    """Return the names of the last `count` features whose stride is at most `max_stride`."""
    levels: tuple[str, ...] = PYRAMID
    if "/" not in name:
        # Our own backbones may have other features, as the CIFAR ones do.
        with torch.device("meta"):
            levels = tuple(info.name for info in backbones.build(name, weights=None, features="all").feature_info)
    kept = [level for level in levels if max_stride is None or 2 ** int(level[1:]) <= max_stride]
    if len(kept) < count:
        raise UserError(
            f"max_stride={max_stride}: leaves {name} with fewer features than the {count} that the head "
            "needs; raise max_stride"
        )
    return tuple(kept[-count:])
