"""The classification net: a backbone's last feature, global average pool, linear layer."""

import os
from typing import Any

import torch
from torch import Tensor, nn

import backbones
from backbones.base import Backbone
from backbones.errors import UserError
from backbones.weights import LoadReport, load_state, state_for


class Classifier(nn.Module):
    """Logits from the last feature of a backbone, as in section 3.3 of the ResNet paper.

    Attributes:
        load_report: what the weights gave, linear layer included; None where none were asked for here.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        if not isinstance(num_classes, int) or num_classes < 1:
            raise UserError(f"num_classes={num_classes!r}: expected a whole number of at least 1")
        self.backbone = backbone
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(backbone.feature_info[-1].channels, num_classes)
        self.load_report: LoadReport | None = backbone.load_report

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], normalised with the backbone's mean and std -> logits [N, num_classes]."""
        x = self.backbone(x)[self.backbone.feature_info[-1].name]
        return self.fc(torch.flatten(self.avgpool(x), 1))


def build(
    backbone: str | Backbone,
    num_classes: int,
    *,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Classifier:
    """Build a classification net.

    Args:
        backbone: a name, or a `Backbone` (with features=("c5",), so that no part of it is idle).
        num_classes: number of logits.
        weights: as for `backbones.build`. The linear layer is taken from the same file where its number of
            classes is `num_classes`; otherwise it stays random and the report lists it as missing.
        options: further keywords of `backbones.build`; only with a name.

    Raises:
        UserError: wrong options, or weights that cannot be had or do not fit.
    """
    if isinstance(backbone, Backbone):
        if options:
            raise UserError(f"{', '.join(options)}: options go to backbones.build where the backbone is built already")
        model = Classifier(backbone, num_classes)
    else:
        model = Classifier(_trunk(backbone, weights, options), num_classes)
    if weights is not None:
        model.load_report = _load(model, weights)
    if options.get("norm") == "frozen":
        backbones.freeze_batch_norm(model)
    return model


def _trunk(name: str, weights: str | os.PathLike[str] | None, options: dict[str, Any]) -> Backbone:
    """The backbone without weights yet: one reading of the file serves it and the linear layer."""
    options = {"features": ("c5",), **options}
    if options.get("norm") == "frozen" and weights is not None:
        options["norm"] = "batch"  # frozen once the weights are in
    return backbones.build(name, weights=None, **options)


def _load(model: Classifier, weights: str | os.PathLike[str]) -> LoadReport:
    state, source = state_for(model.backbone, weights)
    report = load_state(model.backbone, state, source=source)
    model.backbone.accept(report, weights)
    return report.with_head(_load_fc(model.fc, state))


def _load_fc(fc: nn.Linear, state: dict[str, Tensor]) -> bool:
    weight, bias = state.get("fc.weight"), state.get("fc.bias")
    # Another data set's classes are no classes of this one: only the full layer counts.
    if weight is None or bias is None or weight.shape != fc.weight.shape:
        return False
    fc.load_state_dict({"weight": weight, "bias": bias})
    return True
