"""A trained classifier, ready to predict: `load(run)(images)`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.common.images import Image, pixels_of, read_file
from backbones.errors import UserError
from backbones.trained import Trained, TrainedNet, find, options_of
from classification.data.folders import decode
from classification.model import Classifier, ViewAverage, build
from classification.options import ClassifierOptions
from classification.transforms import Normalise, Views

MOST_PIXELS = 1 << 27  # of a resized image: a thin one whose short side is enlarged would fill the memory


@dataclass(frozen=True)
class Ranking:
    """The likeliest classes of an image, the best first; on the CPU.

    Attributes:
        names: of the classes.
        probabilities: `[K]` in 0..1.
        labels: `[K]` class numbers.
    """

    names: tuple[str, ...]
    probabilities: Tensor
    labels: Tensor


class TrainedClassifier(TrainedNet[Ranking]):
    """A classifier with its classes.

    Attributes:
        classes: names by number.
        top: how many a ranking holds.
        among: numbers of those that it may hold; empty for all.
    """

    model: Classifier
    classes: tuple[str, ...]
    top: int = 5
    among: Sequence[int] = ()

    def probabilities(self, images: Sequence[list[Tensor]]) -> Tensor:
        """`[N, classes]`, averaged over the views, of what `read` gave; on the device.

        Neighbours whose views have the same sizes go through the net together.
        """
        found: list[Tensor] = []
        for _, group in groupby(images, key=lambda views: [(view.shape, view.dtype) for view in views]):
            batch = [torch.stack(each).to(self.device) for each in zip(*group, strict=True)]
            found.append(ViewAverage(self.model)(batch))
        return torch.cat(found)

    def _predict(self, images: Sequence[list[Tensor]]) -> list[Ranking]:
        places = torch.tensor(list(self.among or range(len(self.classes))))
        best = self.probabilities(images).float().cpu()[:, places].topk(min(self.top, len(places)))
        rows = zip(best.values, places[best.indices], strict=True)
        return [Ranking(tuple(self.classes[i] for i in labels.tolist()), values, labels) for values, labels in rows]


def load(
    run: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    top: int = 5,
) -> TrainedClassifier:
    """The classifier that a run trained, predicting as the run evaluated it.

        classifier = classification.load("runs/cls-20260101-120000")
        found = classifier("street.jpg")  # or a list of paths, PIL images, arrays, tensors
        found.names[0], found.probabilities[0]

    Args:
        run: its folder, or one of its weights files.
        device: absent: a GPU where there is one.
        precision: auto, fp32, bf16 or fp16; absent: the run's own.
        plugins: Python files or modules to import first, which register what the run needs; see `--plugin`.
        top: classes of a result.

    Raises:
        UserError: where there is no classifier of ours.
    """
    trained = find(run, task="classification", plugins=plugins)
    with trained.understood():
        net = rebuild(trained.meta, trained.path)
        read = partial(views_of, in_channels=net.backbone.in_channels, views=_views(trained))
        classifier = TrainedClassifier(trained, net, read, device=device, precision=precision)
        classifier.classes, classifier.top = tuple(trained.meta["classes"]), top
    return classifier


def views_of(image: Image, *, in_channels: int, views: Views) -> list[Tensor]:
    """The views `[C, h, w]` that evaluation shows the net of an image, turned as its EXIF orientation says.

    Raises:
        UserError: where it cannot be used; where it is so thin that its resized form would fill the memory.
    """
    read = partial(decoded, in_channels=in_channels)
    pixels = pixels_of(image, read, in_channels=in_channels, apply_exif=True, any_floats=True)
    height, width = pixels.shape[-2:]
    if height * width * (views.largest / min(height, width)) ** 2 > MOST_PIXELS:
        name = image if isinstance(image, (str, os.PathLike)) else "an image"
        raise UserError(f"{name}: is {width}x{height} pixels, too thin for a short side of {views.largest}; crop it")
    seen = views(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))
    return [torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))) for view in seen]


def decoded(path: Path, *, in_channels: int) -> np.ndarray:
    """A file's pixels `[H, W, C]`: uint8, or the floats of an array.

    Raises:
        UserError: where it cannot be used.
    """
    return decode(read_file(path), str(path), in_channels)


def _views(trained: Trained) -> Views:
    seen = trained.meta["input"]
    normalise = Normalise(tuple(seen["mean"]), tuple(seen["std"]))
    crops: Any = trained.config.get("test_crops", "center")
    return Views(crops, seen["resize_size"], seen["crop_size"], normalise, seen.get("interpolation", "bilinear"))


def rebuild(meta: Mapping[str, Any], weights: str | os.PathLike[str] | None) -> Classifier:
    """Build the classifier that a run's meta describes.

    Args:
        meta: `classes`, `input` and `model`, as training writes them into the header of its weights.
        weights: the run's weights file. None leaves the weights random and batch norm live: a caller that loads a state
            itself freezes afterwards what the run had frozen.

    Raises:
        UserError: if the weights do not fill the whole model.
    """
    options, seen = replace(options_of(ClassifierOptions, meta), recompute=False), meta["input"]
    if weights is None and options.norm != "group":
        options = replace(options, norm="batch")
    model = build_from_options(options, weights, num_classes=len(meta["classes"]), in_channels=seen["in_channels"])
    if weights is not None and (model.load_report is None or model.load_report.missing):
        raise UserError(f"{weights}: is not whole: {model.load_report}")
    model.backbone.set_normalisation(seen["mean"], seen["std"])
    return model


def build_from_options(
    options: ClassifierOptions, weights: str | os.PathLike[str] | None, *, num_classes: int, in_channels: int
) -> Classifier:
    """Build the model that a run's options describe; the caller handles `options.weights` and `options.freeze`.

    Raises:
        UserError: wrong options, or weights that cannot be read or do not fit.
    """
    return build(
        options.backbone,
        num_classes,
        weights=weights,
        in_channels=in_channels,
        norm=options.norm,
        shortcut=options.shortcut,
        stride_style=options.stride_style or "v1.5",
        label_smoothing=options.label_smoothing,
        recompute=options.recompute,
    )
