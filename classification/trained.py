"""Loads trained classifiers for prediction: `load(run)(images)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.common.channels_last import stack_images, to_tensor
from backbones.common.decoding import decode
from backbones.common.devices import usable_device
from backbones.common.images import Image, pixels_of, read_file, require_resizable
from backbones.common.keywords import known_keywords
from backbones.common.results import shown
from backbones.errors import UserError
from backbones.trained import TrainedFile, TrainedModel, find, options_of, require_names
from backbones.weights.exported import is_exported
from classification.exported import ExportedClassifier
from classification.model import Classifier, ViewAverage, build
from classification.multi_label import DEFAULT_THRESHOLD
from classification.options import ClassifierOptions
from classification.published import register_models
from classification.results import ClassSet, Ranking
from classification.transforms import Normalise, Views

register_models()


class TrainedClassifier(TrainedModel[list[Tensor], Ranking]):
    """A trained classifier: maps images to rankings of its classes, or to sets of classes if it is multi-label.

    Args:
        classes: names by class number.
        top: number of classes in a ranking; sets of classes have any number.

    Attributes:
        among: class numbers that a ranking may hold; empty for all.
    """

    model: Classifier

    def __init__(
        self,
        trained: TrainedFile,
        model: Classifier,
        read: Callable[[Image], list[Tensor]],
        *,
        classes: tuple[str, ...],
        top: int = 5,
        device: str | torch.device | None = None,
        precision: str | None = None,
    ) -> None:
        view = partial(shown, read=partial(_pixels, in_channels=model.backbone.in_channels, bits=trained.bits))
        super().__init__(trained, model, read, view=view, device=device, precision=precision)
        self.classes, self.top = classes, top
        self.among: Sequence[int] = ()

    def probabilities(self, images: Sequence[list[Tensor]]) -> Tensor:
        """Return probabilities `[N, classes]`, averaged over the views of each image, on the model's device.

        Consecutive images whose views have the same sizes form a batch.

        Args:
            images: the views of each image, as `read` returns them.
        """
        found: list[Tensor] = []
        for _, group in groupby(images, key=lambda views: [(view.shape, view.dtype) for view in views]):
            batch = [stack_images(each).to(self.device) for each in zip(*group, strict=True)]
            found.append(ViewAverage(self.model)(batch))
        return torch.cat(found)

    @property
    def multi_label(self) -> bool:
        """Whether the model finds a set of classes in each image."""
        return self.model.multi_label

    @property
    def thresholds(self) -> Tensor:
        """Least probability `[classes]` at which a multi-label classifier finds each class."""
        known = self.trained.meta.get("thresholds") or {}
        return torch.tensor([known.get(name, DEFAULT_THRESHOLD) for name in self.classes])

    def _predict(self, images: Sequence[list[Tensor]]) -> list[Ranking]:
        if self.multi_label:
            return [self._class_set(scores) for scores in self.probabilities(images).float().cpu()]
        allowed = torch.tensor(list(self.among or range(len(self.classes))))
        best = self.probabilities(images).float().cpu()[:, allowed].topk(min(self.top, len(allowed)))
        rows = zip(best.values, allowed[best.indices], strict=True)
        return [Ranking(tuple(self.classes[i] for i in labels.tolist()), values, labels) for values, labels in rows]

    def _class_set(self, scores: Tensor) -> ClassSet:
        """Return the classes whose probabilities reach their thresholds."""
        found = torch.tensor([number in self.among or not self.among for number in range(len(self.classes))])
        labels = (found & (scores >= self.thresholds)).nonzero()[:, 0]
        labels = labels[scores[labels].argsort(descending=True, stable=True)]
        return ClassSet(tuple(self.classes[i] for i in labels.tolist()), scores[labels], labels, scores)


@known_keywords("classification.load", typed=True)
def load(
    run: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    top: int = 5,
    classes: Sequence[str] | None = None,
) -> TrainedClassifier:
    """Load the classifier that a run trained; it predicts as the run evaluated it.

        classifier = classification.load("runs/cls-20260101-120000")
        found = classifier("street.jpg")  # or a list of paths, PIL images, arrays, tensors
        found.names[0], found.probabilities[0]

    Args:
        run: the run folder, or one of its weights files; or a published classifier: resnet18 to resnet152 of
            torchvision, with the 1,000 classes of ImageNet.
        device: auto, cpu, cuda, cuda:1, mps; auto, the default, is a GPU if there is one.
        precision: auto, fp32, bf16 or fp16; by default the run's own.
        plugins: Python files or modules to import first, which register what the run needs; see `--plugin`.
        top: number of classes in a result.
        classes: names of the classes that a result may hold; by default all.

    Raises:
        UserError: the run holds no classifier, a name is not one of its classes, or `top` is below 1.
    """
    if top < 1:
        raise UserError(f"top={top}: must be above 0")
    trained = find(run, task="classification", plugins=plugins)
    device = usable_device(device)  # before the errors that name the file
    with trained.building():
        model = rebuild(trained.meta, trained.path)
        read = partial(read_views, in_channels=model.backbone.in_channels, views=_views(trained), bits=trained.bits)
        names = tuple(trained.meta["classes"])
        loaded = TrainedClassifier(trained, model, read, classes=names, top=top, device=device, precision=precision)
        if classes is not None:
            loaded.among = sorted(names.index(name) for name in require_names(classes, names))
        return loaded


def read_views(image: Image, *, in_channels: int, views: Views, bits: int = 16) -> list[Tensor]:
    """Return an image's views for evaluation, each `[C, h, w]` uint8 or normalised float32. Apply the EXIF orientation.

    Raises:
        UserError: the image cannot be used, or is so thin that it would fill the memory when resized.
    """
    pixels = _pixels(image, in_channels=in_channels, bits=bits)
    require_resizable(image, pixels, short_side=views.largest)
    seen = views(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))
    return [to_tensor(view) for view in seen]


def _pixels(image: Image, *, in_channels: int, bits: int) -> Tensor:
    """Return an image's pixels `[C, H, W]`. Apply the EXIF orientation. The errors are those of `pixels_of`."""
    read = partial(read_pixels, in_channels=in_channels, bits=bits)
    return pixels_of(image, read, in_channels=in_channels, apply_exif=True, any_floats=True, bits=bits)


def read_pixels(path: Path, *, in_channels: int, bits: int = 16) -> np.ndarray:
    """Decode a file to pixels `[H, W, C]`: uint8, or float32 if the file is an array that is not uint8.

    Raises:
        UserError: the file cannot be used.
    """
    return decode(read_file(path), str(path), in_channels, bits)


def _views(trained: TrainedFile) -> Views:
    seen = trained.meta["input"]
    normalise = Normalise(tuple(seen["mean"]), tuple(seen["std"]))
    return Views(
        trained.config.get("test_crops", "center"),
        seen["resize_size"],
        seen["crop_size"],
        normalise,
        seen.get("interpolation", "bilinear"),
    )


def rebuild(meta: Mapping[str, Any], weights: str | os.PathLike[str] | None) -> Classifier:
    """Build the classifier that a run's metadata describes.

    Args:
        meta: `classes`, `input` and `model`, as training writes them into the header of its weights.
        weights: the run's weights file, to predict with. None is for a caller that repeats a training step and loads a
            state itself: weights are random, and batch norm is live.

    Raises:
        UserError: the weights do not fill the whole model.
    """
    if is_exported(weights):
        assert weights is not None
        return ExportedClassifier(weights)
    options, seen = replace(options_of(ClassifierOptions, meta), recompute=False), meta["input"]
    if weights is None and options.norm != "group":
        options = replace(options, norm="batch")
    count, multi_label = len(meta["classes"]), bool(meta.get("multi_label"))
    # A repeated training step gets the values of the class weights from its record.
    balance = torch.ones(count) if weights is None and options.class_weights != "none" else None
    model = build_from_options(
        options,
        weights,
        num_classes=count,
        in_channels=seen["in_channels"],
        multi_label=multi_label,
        class_weights=balance,
    )
    if weights is not None and (model.load_report is None or model.load_report.missing):
        raise UserError(
            f"{weights}: some of the model's weights are missing ({model.load_report}); train or export the model again"
        )
    model.backbone.set_normalisation(seen["mean"], seen["std"])
    return model


def build_from_options(
    options: ClassifierOptions,
    weights: str | os.PathLike[str] | None,
    *,
    num_classes: int,
    in_channels: int,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    class_weights: Tensor | None = None,
) -> Classifier:
    """Build the model that a run's options describe.

    The caller handles `options.weights`, `freeze` and `class_weights`.

    Raises:
        UserError: wrong options, or weights that cannot be read or do not fit.
    """
    if is_exported(weights):
        assert weights is not None
        return ExportedClassifier(weights, classes)
    return build(
        options.backbone,
        num_classes,
        weights=weights,
        classes=classes,
        in_channels=in_channels,
        norm=options.norm,
        shortcut=options.shortcut,
        stride_style=options.stride_style,
        weights_from=options.weights_from,
        label_smoothing=options.label_smoothing,
        multi_label=multi_label,
        class_weights=class_weights,
        recompute=options.recompute,
    )
