"""A trained segmentation net, ready to predict: `load(run)(images)`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backbones.common.images import Image, pixels_of, read_image
from backbones.common.options import renamed
from backbones.errors import UserError
from backbones.trained import TrainedNet, find, options_of
from segmentation.data.labels import Classes
from segmentation.fcn import FCN, build
from segmentation.losses import PixelLoss
from segmentation.options import SegmentationDataOptions, SegmenterOptions
from segmentation.predict import Predictor

MOST_PIXELS = 1 << 27  # of an image in the net: a thin one whose short side is enlarged would fill the memory


@dataclass(frozen=True)
class LabelMap:
    """The class of each pixel of an image; on the CPU.

    Attributes:
        labels: `[H, W]` uint8 class numbers, at the size of the image as given. A file's pixels count as they lie,
            EXIF or not: label maps are drawn over those.
        names: of the classes, by number.
    """

    labels: Tensor
    names: tuple[str, ...]


class TrainedSegmenter(TrainedNet[LabelMap]):
    """A segmentation net with its classes.

    Attributes:
        classes: names and colours by number.
        predictor: how images are looked at: resized, in windows, mirrored.
    """

    model: FCN
    classes: Classes
    predictor: Predictor

    def _predict(self, images: Sequence[Tensor]) -> list[LabelMap]:
        found = self.predictor([self._normalised(image.to(self.device)) for image in images])
        return [LabelMap(labels.cpu(), self.classes.names) for labels in found]

    def _normalised(self, image: Tensor) -> Tensor:
        """Floats of 0..1 as the net takes them; it normalises bytes itself."""
        if image.dtype == torch.uint8:
            return image
        mean, std = (image.new_tensor(v)[:, None, None] for v in (self.model.backbone.mean, self.model.backbone.std))
        return (image - mean) / std


def load(
    run: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    **look: Any,
) -> TrainedSegmenter:
    """The segmentation net that a run trained, predicting as the run evaluated it.

        segmenter = segmentation.load("runs/seg-20260101-120000")
        found = segmenter("street.jpg")  # or a list of paths, PIL images, arrays, tensors
        found.labels, found.names

    Args:
        run: its folder, or one of its weights files.
        device: absent: a GPU where there is one.
        precision: auto, fp32, bf16 or fp16; absent: the run's own.
        plugins: Python files or modules to import first, which register what the run needs; see `--plugin`.
        look: keywords of `segmentation.Predictor` (window, overlap, min_size, scales, flip) in place of the run's own.

    Raises:
        UserError: where there is no segmentation net of ours.
    """
    trained = find(run, task="segmentation", plugins=plugins)
    with trained.understood():
        net, config = rebuild(trained.meta, trained.path), renamed(trained.config, [SegmentationDataOptions])
        own = {
            "min_size": trained.meta["input"]["min_size"],
            "window": config.get("tile", 0),
            "overlap": config.get("overlap", 0.25),
            "scales": config.get("test_sizes") or (1.0,),
            "flip": config.get("test_flip", False),
        }
        predictor = Predictor(net, **{**own, **look})
        read = partial(pixels, in_channels=net.backbone.in_channels, min_size=predictor.min_size)
        segmenter = TrainedSegmenter(trained, net, read, device=device, precision=precision)
        segmenter.predictor = predictor
        names, colours = trained.meta["classes"], trained.meta["colours"]
        segmenter.classes = Classes(tuple(names), tuple((r, g, b) for r, g, b in colours))
    return segmenter


def pixels(image: Image, *, in_channels: int, min_size: int) -> Tensor:
    """Pixels `[C, H, W]` of an image as they lie.

    Raises:
        UserError: where it cannot be used; where it is so thin that its size in the net would fill the memory.
    """
    read = partial(read_image, apply_exif=False, fix="replace it")
    found = pixels_of(image, read, in_channels=in_channels, apply_exif=False)
    height, width = found.shape[-2:]
    if min_size and height * width * (min_size / min(height, width)) ** 2 > MOST_PIXELS:
        name = image if isinstance(image, (str, os.PathLike)) else "an image"
        raise UserError(f"{name}: is {width}x{height} pixels, too thin for a short side of {min_size}; crop it")
    return found


def rebuild(meta: Mapping[str, Any], weights: str | os.PathLike[str] | None) -> FCN:
    """Build the segmentation model that a run's meta describes.

    Args:
        meta: `classes`, `input` and `model`, as training writes them into the header of its weights.
        weights: the run's weights file, to predict with. None is for a caller that repeats a training step: the weights
            (those of the classes in the loss included) are random and batch norm is live until it loads a state.

    Raises:
        UserError: if the weights do not fill the whole model.
    """
    options, seen, num_classes = options_of(SegmenterOptions, meta), meta["input"], len(meta["classes"])
    loss = None  # prediction needs none, and the Dice loss needs another library
    if weights is None:
        options = options if options.norm == "group" else replace(options, norm="batch")
        loss = PixelLoss(options.loss, torch.ones(num_classes) if options.class_weights != "none" else None)
    model = build_from_options(
        options, weights, num_classes=num_classes, in_channels=seen.get("in_channels", 3), loss=loss
    )
    missing = model.load_report.missing if model.load_report else ("the head",)
    lacking = [name for name in missing if not name.startswith("aux_classifier.")]
    if weights is not None and lacking:
        raise UserError(f"{weights}: is not whole: {lacking[0]} is missing")
    model.backbone.set_normalisation(seen["mean"], seen["std"])
    return model


def build_from_options(
    options: SegmenterOptions,
    weights: str | os.PathLike[str] | None,
    *,
    num_classes: int,
    in_channels: int = 3,
    loss: PixelLoss | None = None,
) -> FCN:
    """Build the model that a run's options describe.

    The caller handles `options.weights`, `freeze`, `loss` and `class_weights`.

    Raises:
        UserError: wrong options, or weights that cannot be read or do not fit.
    """
    return build(
        options.backbone,
        num_classes,
        weights=weights,
        in_channels=in_channels,
        head=options.head,
        aux=options.aux,
        norm=options.norm,
        output_stride=options.output_stride,
        max_stride=options.max_stride,
        loss=loss,
    )
