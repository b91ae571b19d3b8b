"""Classification models: a backbone with global average pool and linear layer, or a library's whole model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbones
from backbones.base import Backbone
from backbones.common.keywords import known_keywords
from backbones.common.numeric import whole_number
from backbones.errors import UserError
from backbones.weights.classes import describe_moved, reorder_classes, rows_by_name
from backbones.weights.files import read_meta, read_state
from backbones.weights.hub import resolve
from backbones.weights.loading import load, load_linear, state_for
from backbones.weights.report import LoadReport
from classification.library_models import LibraryModel, build_library_model


class Classifier(nn.Module):
    """Base class of the classification models.

    Args:
        backbone: the model that normalisation, freezing and recomputation belong to.
        label_smoothing: label smoothing of the training loss, 0..1 (Szegedy et al. 2016).

    Attributes:
        load_report: which entries of the weights were loaded, including the linear layer; None with random weights.
        multi_label: whether an image may have several classes: the loss is binary cross-entropy, and each class has a
            probability of its own.
        class_weights: weights `[num_classes]` of the loss of each class, or of its positive examples if `multi_label`;
            None for equal weights.
    """

    class_weights: Tensor | None

    def __init__(self, backbone: Backbone, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.load_report: LoadReport | None = backbone.load_report
        self.label_smoothing, self.multi_label = label_smoothing, False
        # Keep them out of the state dict: they describe the training data, not the model.
        self.register_buffer("class_weights", None, persistent=False)

    def logits(self, x: Tensor) -> Tensor:
        """Map images `[N, C, H, W]`, normalised with the backbone's mean and std, to logits `[N, num_classes]`."""
        raise NotImplementedError

    def compilable(self) -> dict[str, nn.Module]:
        """Return the parts by name that torch.compile can compile whole."""
        return {"backbone": self.backbone}

    def head_entries(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the entries of the last layer, and those of a last layer with one more class on the meta device."""
        raise NotImplementedError

    def library_state(self) -> dict[str, Tensor]:
        """Return the state dict with the parameter names of the library's model of the same name.

        Raises:
            UserError: if no library has this model.
        """
        return self.backbone.library_state()

    def forward(self, images: Tensor, targets: dict[str, Tensor] | None = None) -> Any:
        """Return logits `[N, num_classes]`, or, if targets are given, a dict of training losses.

        Args:
            images: `[N, C, H, W]`, uint8, or floating and normalised with the backbone's mean and std.
            targets: `label`, class numbers `[N]` or probabilities `[N, num_classes]`; if `multi_label`, whether the
                image has each class, `[N, num_classes]`.
        """
        logits = self.logits(self.backbone.normalise(images))
        return logits if targets is None else self.losses(logits, targets)

    def __prepare_scriptable__(self) -> nn.Module:
        return ScriptableClassifier(self)

    def losses(self, logits: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a dict with the training loss of logits `[N, num_classes]`. The targets are as in `forward`.

        The loss is a mean over images, so that it does not depend on the number of processes and accumulated batches.
        """
        logits, labels, smoothing = logits.float(), targets["label"], self.label_smoothing
        if self.multi_label:
            soft = labels.float() * (1 - smoothing) + smoothing / 2
            return {"loss_cls": F.binary_cross_entropy_with_logits(logits, soft, pos_weight=self.class_weights)}
        if self.class_weights is None:
            return {"loss_cls": F.cross_entropy(logits, labels, label_smoothing=smoothing)}
        # reduction="mean" would divide by the weights of this batch, which differ between processes.
        losses = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=smoothing, reduction="none")
        return {"loss_cls": losses.mean()}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map logits `[N, num_classes]` to probabilities of the same shape; if `multi_label`, each has its own."""
        return logits.float().sigmoid() if self.multi_label else logits.float().softmax(1)


class PooledClassifier(Classifier):
    """Classifier of a backbone, a global average pool and a linear layer (section 3.3 of the ResNet paper)."""

    def __init__(self, backbone: Backbone, num_classes: int, *, label_smoothing: float = 0.0) -> None:
        super().__init__(backbone, label_smoothing=label_smoothing)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(backbone.feature_info[-1].channels, num_classes)

    def head_entries(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        larger = nn.Linear(self.fc.in_features, self.fc.out_features + 1, device="meta")
        return self.fc.state_dict(prefix="fc."), larger.state_dict(prefix="fc.")

    def library_state(self) -> dict[str, Tensor]:
        return {**self.backbone.library_state(), "fc.weight": self.fc.weight.data, "fc.bias": self.fc.bias.data}

    def logits(self, x: Tensor) -> Tensor:
        x = self.backbone(x)[self.backbone.feature_info[-1].name]
        return self.fc(torch.flatten(self.avgpool(x), 1))


class WholeClassifier(Classifier):
    """Classifier that is a whole model of torchvision or timm with the library's own head."""

    backbone: LibraryModel

    def head_entries(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.backbone.head_entries()

    def logits(self, x: Tensor) -> Tensor:
        return self.backbone(x)["logits"]


class ScriptableClassifier(nn.Module):
    """Classifier in a form that torch.jit.script compiles: normalised images `[N, C, H, W]` to logits.

    Bytes must be normalised before, and there are no losses.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.name, self.head = "logits", nn.Sequential()
        if isinstance(model, PooledClassifier):
            self.name = model.backbone.feature_info[-1].name
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), model.fc)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[N, num_classes]`."""
        return self.head(self.backbone(images)[self.name])


class ViewAverage(nn.Module):
    """Averages a classifier's probabilities over several views of each image, as ten-crop and multi-scale tests do.

    A view may be a whole image instead of a crop: the global pool then averages over all positions, which makes the
    model fully convolutional.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Map views `[N, C, h, w]`, which may differ in size, to mean probabilities `[N, num_classes]`."""
        return self._mean_probabilities([self.model(view) for view in views])

    def predict_with_losses(
        self, views: Sequence[Tensor], targets: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the probabilities as `forward` does, and the training loss averaged over the views."""
        logits = [self.model(view) for view in views]
        losses = [self.model.losses(each, targets)["loss_cls"] for each in logits]
        return self._mean_probabilities(logits), {"loss_cls": torch.stack(losses).mean()}

    def _mean_probabilities(self, logits: Sequence[Tensor]) -> Tensor:
        # Average probabilities, not logits: a view with large logits must not outweigh the others.
        return torch.stack([self.model.probabilities(each) for each in logits]).mean(0)


@known_keywords("classification.build", of=backbones.build)
def build(
    backbone: str | Backbone,
    num_classes: int,
    *,
    weights: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    label_smoothing: float = 0.0,
    multi_label: bool = False,
    class_weights: Tensor | None = None,
    recompute: bool = False,
    **options: Any,
) -> Classifier:
    """Build a classification model.

    Args:
        backbone: a registered name gives our backbone with pool and linear layer; "torchvision/<name>" or "timm/<name>"
            gives that library's whole model with its own head. A `Backbone` of any origin gets pool and linear layer;
            build it with features="last", so that all of it is used.
        num_classes: number of logits.
        weights: as for `backbones.build`; None for random weights. The last layer is loaded from the same file if its
            number of classes is `num_classes`; otherwise it stays random and the report lists it as missing.
        classes: names of the classes by label. If our weights file has the same names in another order, the rows of its
            last layer are put into this order, and the report lists the classes that moved.
        label_smoothing, recompute: see `ClassifierOptions` in classification/options.py.
        multi_label, class_weights: see `Classifier`.
        options: further keywords of `backbones.build`, if `backbone` is a name; a library's whole model takes
            in_channels and norm only.

    Raises:
        UserError: wrong options, or weights that cannot be read or do not fit.
    """
    num_classes = whole_number("num_classes", num_classes)
    weights = resolve(weights)
    if isinstance(backbone, str) and "/" in backbone:
        model: Classifier = WholeClassifier(
            _whole(backbone, num_classes, weights, options), label_smoothing=label_smoothing
        )
    else:
        trunk = _trunk(backbone, weights, options)
        model = PooledClassifier(trunk, num_classes, label_smoothing=label_smoothing)
        if weights is not None:
            model.load_report = _load(model, weights)
    if weights is not None and classes is not None:
        _match_classes(model, classes, weights)
    model.multi_label, model.class_weights = multi_label, class_weights
    # Convert norm layers last, so that weights load into plain batch norm.
    if options.get("norm") == "frozen":
        backbones.freeze_batch_norm(model)
    if options.get("norm") == "sync":
        backbones.synchronise_batch_norm(model)
    if recompute:
        model.backbone.recompute_activations()
    return model


def outputs_of(path: str | os.PathLike[str]) -> int | None:
    """Return the number of classes of the last layer in a weights file, or None if it has none that is known.

    Raises:
        UserError: the file cannot be read.
    """
    layers = [
        tensor
        for name, tensor in read_state(path).items()
        if name.startswith(("fc.", "linear.", "classifier.", "head.")) and name.endswith("weight") and tensor.ndim > 1
    ]
    return len(layers[-1]) if layers else None


def _whole(
    name: str, num_classes: int, weights: str | os.PathLike[str] | None, options: dict[str, Any]
) -> LibraryModel:
    net = build_library_model(name, num_classes, **options)
    if weights is None and options.get("norm") == "frozen":
        raise UserError(f"{name}: norm='frozen' would freeze random statistics; give weights, or use norm='batch'")
    if weights is not None:
        net.load(weights)
    return net


def _trunk(backbone: str | Backbone, weights: str | os.PathLike[str] | None, options: dict[str, Any]) -> Backbone:
    """Return the backbone without weights. They are loaded later, together with those of the last layer."""
    if isinstance(backbone, Backbone):
        if options:
            raise UserError(
                f"{', '.join(options)}: cannot be chosen here, because the backbone is built already; pass "
                "these options to backbones.build"
            )
        return backbone
    options = {"features": "last", **options}
    if options.get("norm") == "frozen" and weights is not None:
        options["norm"] = "batch"  # `build` freezes it once the weights are loaded
    return backbones.build(backbone, weights=None, **options)


def _match_classes(model: Classifier, classes: Sequence[str], weights: str | os.PathLike[str]) -> None:
    """Put the classes of a last layer that was loaded from a file into the order of `classes`."""
    rows, report = rows_by_name(read_meta(weights).get("classes"), classes), model.load_report
    head, larger = model.head_entries()
    if rows is None or report is None or not set(head) <= set(report.matched):
        return
    if reorder_classes(head, larger, rows):
        model.load_report = replace(report, moved=describe_moved(classes, rows))


def _load(model: PooledClassifier, weights: str | os.PathLike[str]) -> LoadReport:
    state, source = state_for(model.backbone, weights)
    report = load(model.backbone, state, source=source)
    model.backbone.accept(report, weights)
    return load_linear(model.fc, state, report, backbone=model.backbone)
