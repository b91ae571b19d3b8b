"""Classification nets: a backbone's last feature, global average pool and linear layer; or a library's whole net."""

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbones
from backbones.base import Backbone
from backbones.errors import UserError
from backbones.weights.hub import resolve
from backbones.weights.loading import load, state_for
from backbones.weights.report import LoadReport
from classification.library_nets import LibraryNet, build_whole


class Classifier(nn.Module):
    """Base of the classification nets.

    Attributes:
        backbone: what normalisation, freezing and recomputation belong to.
        load_report: what the weights gave, linear layer included; None where none were asked for here.
        label_smoothing: of the training loss (Szegedy et al. 2016), 0..1.
    """

    def __init__(self, backbone: Backbone, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.load_report: LoadReport | None = backbone.load_report
        self.label_smoothing = label_smoothing

    def logits(self, x: Tensor) -> Tensor:
        """[N, C, H, W], normalised with the backbone's mean and std -> [N, num_classes]."""
        raise NotImplementedError

    def library_state(self) -> dict[str, Tensor]:
        """The entries as the library's own net of this name has them; its `load_state_dict` takes them as they are.

        Raises:
            UserError: where no library has this net.
        """
        return self.backbone.library_state()

    def forward(self, images: Tensor, targets: dict[str, Tensor] | None = None) -> Any:
        """Logits `[N, num_classes]`, or with targets the training loss.

        Args:
            images: `[N, C, H, W]`, uint8, or floating and normalised with the backbone's mean and std.
            targets: `label`, numbers `[N]` or probabilities `[N, num_classes]`.
        """
        logits = self.logits(self.backbone.normalised(images))
        return logits if targets is None else self.losses(logits, targets)

    def losses(self, logits: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Training losses of logits `[N, num_classes]`; targets as in `forward`."""
        return {"loss_cls": F.cross_entropy(logits.float(), targets["label"], label_smoothing=self.label_smoothing)}


class PooledClassifier(Classifier):
    """Logits from the last feature of a backbone, as in section 3.3 of the ResNet paper."""

    def __init__(self, backbone: Backbone, num_classes: int, *, label_smoothing: float = 0.0) -> None:
        super().__init__(backbone, label_smoothing=label_smoothing)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(backbone.feature_info[-1].channels, num_classes)

    def library_state(self) -> dict[str, Tensor]:
        return {**self.backbone.library_state(), "fc.weight": self.fc.weight.data, "fc.bias": self.fc.bias.data}

    def logits(self, x: Tensor) -> Tensor:
        x = self.backbone(x)[self.backbone.feature_info[-1].name]
        return self.fc(torch.flatten(self.avgpool(x), 1))


class WholeClassifier(Classifier):
    """Logits of a net of torchvision's or timm's, its own head included."""

    backbone: LibraryNet

    def logits(self, x: Tensor) -> Tensor:
        return self.backbone(x)["logits"]


class ViewAverage(nn.Module):
    """Class probabilities of images by the mean over views of them, as the ten-crop and multi-scale tests do.

    A whole picture instead of a crop makes the net fully convolutional: the pool averages the scores over all places.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """A list of views `[N, C, h, w]`, which may differ in size -> `[N, num_classes]`."""
        return _mean_probabilities([self.model(view) for view in views])

    def predict_with_losses(
        self, views: Sequence[Tensor], targets: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What `forward` gives, and the training loss, averaged over the views."""
        logits = [self.model(view) for view in views]
        losses = [self.model.losses(each, targets)["loss_cls"] for each in logits]
        return _mean_probabilities(logits), {"loss_cls": torch.stack(losses).mean()}


def _mean_probabilities(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.float().softmax(1) for each in logits]).mean(0)


def build(
    backbone: str | Backbone,
    num_classes: int,
    *,
    weights: str | os.PathLike[str] | None = None,
    label_smoothing: float = 0.0,
    **options: Any,
) -> Classifier:
    """Build a classification net: pool and linear layer on one of our backbones, or a library's whole net.

    Args:
        backbone: a name; "torchvision/<name>" and "timm/<name>" give that library's net with its own head. Or a
            `Backbone` of any origin (with features="last", so that no part of it is idle) for pool and linear layer.
        num_classes: number of logits.
        weights: as for `backbones.build`. The last layer is taken from the same file where its number of
            classes is `num_classes`; otherwise it stays random and the report lists it as missing.
        label_smoothing: of the training loss, 0 to below 1.
        options: further keywords of `backbones.build`; only with a name. Whole nets take in_channels and norm.

    Raises:
        UserError: wrong options, or weights that cannot be had or do not fit.
    """
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"num_classes={num_classes!r}: expected a whole number of at least 1")
    weights = resolve(weights)
    if isinstance(backbone, str) and "/" in backbone:
        model: Classifier = _whole(backbone, num_classes, weights, label_smoothing, options)
    else:
        model = _pooled(backbone, num_classes, weights, label_smoothing, options)
    if options.get("norm") == "frozen":
        backbones.freeze_batch_norm(model)
    if options.get("norm") == "sync":
        backbones.synchronise_batch_norm(model)
    return model


def _whole(
    name: str,
    num_classes: int,
    weights: str | os.PathLike[str] | None,
    label_smoothing: float,
    options: dict[str, Any],
) -> WholeClassifier:
    net = build_whole(name, num_classes, **options)
    if weights is None and options.get("norm") == "frozen":
        raise UserError(f"{name}: norm='frozen' would freeze random statistics; give weights or take norm='batch'")
    if weights is not None:
        net.load(weights)
    return WholeClassifier(net, label_smoothing=label_smoothing)


def _pooled(
    backbone: str | Backbone,
    num_classes: int,
    weights: str | os.PathLike[str] | None,
    label_smoothing: float,
    options: dict[str, Any],
) -> PooledClassifier:
    if isinstance(backbone, Backbone) and options:
        raise UserError(f"{', '.join(options)}: options go to backbones.build where the backbone is built already")
    trunk = backbone if isinstance(backbone, Backbone) else _trunk(backbone, weights, options)
    model = PooledClassifier(trunk, num_classes, label_smoothing=label_smoothing)
    if weights is not None:
        model.load_report = _load(model, weights)
    return model


def _trunk(name: str, weights: str | os.PathLike[str] | None, options: dict[str, Any]) -> Backbone:
    """The backbone without weights yet: one reading of the file serves it and the linear layer."""
    options = {"features": "last", **options}
    if options.get("norm") == "frozen" and weights is not None:
        options["norm"] = "batch"  # frozen once the weights are in
    return backbones.build(name, weights=None, **options)


def _load(model: PooledClassifier, weights: str | os.PathLike[str]) -> LoadReport:
    state, source = state_for(model.backbone, weights)
    report = load(model.backbone, state, source=source)
    model.backbone.accept(report, weights)
    return report.with_head(_load_fc(model.fc, state))


def _load_fc(fc: nn.Linear, state: dict[str, Tensor]) -> bool:
    # The CIFAR files of the community call the layer "linear".
    weight, bias = (state.get(f"fc.{part}", state.get(f"linear.{part}")) for part in ("weight", "bias"))
    # Another data set's classes are no classes of this one: only the full layer counts.
    if weight is None or bias is None or weight.shape != fc.weight.shape:
        return False
    fc.load_state_dict({"weight": weight, "bias": bias})
    return True
