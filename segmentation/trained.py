"""Loads trained segmentation models for prediction: `load(run)(images)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.common.decoding import decode, is_bands
from backbones.common.devices import usable_device
from backbones.common.images import Image, pixels_of, read_file, read_image, require_resizable
from backbones.common.keywords import known_keywords
from backbones.common.options import renamed
from backbones.common.results import shown
from backbones.errors import UserError
from backbones.trained import TrainedFile, TrainedModel, find, options_of, require_names
from backbones.weights.exported import is_exported
from segmentation.data.classes import Classes
from segmentation.exported import ExportedSegmenter
from segmentation.fcn import FCN, build
from segmentation.losses import PixelLoss
from segmentation.options import SegmentationDataOptions, SegmenterOptions
from segmentation.predict import Predictor
from segmentation.published import register_models
from segmentation.results import LabelMap

register_models()


class TrainedSegmenter(TrainedModel[Tensor, LabelMap]):
    """A trained segmentation model: maps images to label maps with class names.

    Args:
        classes: names and colours by class number.
        predictor: predicts label maps with the model, with the chosen sizes, tiles and mirror images.
        chosen: names of the classes that drawings and tables show; by default all but a background.
    """

    model: FCN

    def __init__(
        self,
        trained: TrainedFile,
        read: Callable[[Image], Tensor],
        *,
        classes: Classes,
        predictor: Predictor,
        device: str | torch.device | None = None,
        precision: str | None = None,
        chosen: Sequence[str] | None = None,
    ) -> None:
        view = partial(shown, read=read)
        super().__init__(trained, predictor.model, read, view=view, device=device, precision=precision)
        self.classes, self.predictor, self.chosen = classes, predictor, chosen

    def _predict(self, images: Sequence[Tensor]) -> list[LabelMap]:
        found = self.predictor([self._normalised(image.to(self.device)) for image in images])
        names, colours = self.classes.names, self.classes.colours
        shown = self.chosen if self.chosen is not None else [names[number] for number in self.classes.coloured]
        return [LabelMap(labels.cpu(), names, colours, tuple(shown)) for labels in found]

    def _normalised(self, image: Tensor) -> Tensor:
        """Normalise a float image in 0..1. The model itself normalises uint8 images."""
        if image.dtype == torch.uint8:
            return image
        mean, std = (image.new_tensor(v)[:, None, None] for v in (self.model.backbone.mean, self.model.backbone.std))
        return (image - mean) / std


@known_keywords("segmentation.load", typed=True)
def load(
    run: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    min_size: int | None = None,
    tile: int | None = None,
    overlap: float | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    classes: Sequence[str] | None = None,
) -> TrainedSegmenter:
    """Load the segmentation model that a run trained; it predicts as the run evaluated it.

        segmenter = segmentation.load("runs/seg-20260101-120000")
        found = segmenter("street.jpg")  # or a list of paths, PIL images, arrays, tensors
        found.labels, found.names, found.plot(), found.fractions()

    Args:
        run: the run folder, or one of its weights files; or a published model: fcn_resnet50 or fcn_resnet101 of
            torchvision, with the 21 classes of Pascal VOC.
        device: auto, cpu, cuda, cuda:1, mps; auto, the default, is a GPU if there is one.
        precision: auto, fp32, bf16 or fp16; by default the run's own.
        plugins: Python files or modules to import first, which register what the run needs; see `--plugin`.
        min_size, tile, overlap, scales, flip: keywords of `segmentation.Predictor`; by default the run's own.
        classes: names of the classes that drawings and tables show; by default all but a background.

    Raises:
        UserError: the run holds no segmentation model, or an option is out of range.
    """
    trained = find(run, task="segmentation", plugins=plugins)
    device = usable_device(device)  # before the errors that name the file
    with trained.building():
        model, config = rebuild(trained.meta, trained.path), renamed(trained.config, [SegmentationDataOptions])
        predictor = Predictor(
            model,
            min_size=trained.meta["input"]["min_size"] if min_size is None else min_size,
            tile=config.get("tile", 0) if tile is None else tile,
            overlap=config.get("overlap", 0.25) if overlap is None else overlap,
            scales=(config.get("test_scales") or (1.0,)) if scales is None else scales,
            flip=config.get("test_flip", False) if flip is None else flip,
        )
        known = Classes(
            tuple(trained.meta["classes"]), tuple((red, green, blue) for red, green, blue in trained.meta["colours"])
        )
        read = partial(
            read_pixels, in_channels=model.backbone.in_channels, min_size=predictor.min_size, bits=trained.bits
        )
        chosen = None if classes is None else require_names(classes, known.names)
        return TrainedSegmenter(
            trained, read, classes=known, predictor=predictor, device=device, precision=precision, chosen=chosen
        )


def read_pixels(image: Image, *, in_channels: int, min_size: int, bits: int = 16) -> Tensor:
    """Return an image's pixels `[C, H, W]`: uint8, float in 0..1, or the values of bands. Ignore the EXIF orientation.

    Raises:
        UserError: the image cannot be used, or is so thin that it would fill the memory at `min_size`.
    """

    def read(path: Path) -> np.ndarray:
        if in_channels != 3 or is_bands(path.name, in_channels):
            return decode(read_file(path, fix="replace it"), str(path), in_channels, bits)
        return read_image(path, apply_exif=False, fix="replace it", bits=bits)

    bands = in_channels not in (1, 3) or (isinstance(image, (str, os.PathLike)) and is_bands(str(image), in_channels))
    found = pixels_of(image, read, in_channels=in_channels, apply_exif=False, any_floats=bands, bits=bits)
    if min_size:
        require_resizable(image, found, short_side=min_size)
    return found


def rebuild(meta: Mapping[str, Any], weights: str | os.PathLike[str] | None) -> FCN:
    """Build the segmentation model that a run's metadata describes.

    Args:
        meta: `classes`, `input` and `model`, as training writes them into the header of its weights.
        weights: the run's weights file, to predict with. None is for a caller that repeats a training step and loads a
            state itself: weights are random (class weights of the loss are 1), and batch norm is live.

    Raises:
        UserError: the weights do not fill the whole model.
    """
    if is_exported(weights):
        assert weights is not None
        return ExportedSegmenter(weights)
    options, seen, num_classes = options_of(SegmenterOptions, meta), meta["input"], len(meta["classes"])
    loss = None  # predictions need no loss, and the Dice loss needs another library
    if weights is None:
        options = options if options.norm == "group" else replace(options, norm="batch")
        loss = PixelLoss(options.loss, torch.ones(num_classes) if options.class_weights != "none" else None)
    model = build_from_options(
        options, weights, num_classes=num_classes, in_channels=seen.get("in_channels", 3), loss=loss
    )
    missing = model.load_report.missing if model.load_report else ("the head",)
    lacking = [name for name in missing if not name.startswith("aux_classifier.")]
    if weights is not None and lacking:
        raise UserError(
            f"{weights}: weights of the model are missing, such as {lacking[0]}; train or export the model again"
        )
    model.backbone.set_normalisation(seen["mean"], seen["std"])
    return model


def build_from_options(
    options: SegmenterOptions,
    weights: str | os.PathLike[str] | None,
    *,
    num_classes: int,
    in_channels: int = 3,
    loss: PixelLoss | None = None,
    classes: Sequence[str] | None = None,
) -> FCN:
    """Build the model that a run's options describe.

    The caller handles `options.weights`, `freeze`, `loss` and `class_weights`.

    Raises:
        UserError: wrong options, or weights that cannot be read or do not fit.
    """
    if is_exported(weights):
        assert weights is not None
        return ExportedSegmenter(weights, classes)
    return build(
        options.backbone,
        num_classes,
        weights=weights,
        in_channels=in_channels,
        head=options.head,
        aux=options.aux,
        binary=options.binary,
        norm=options.norm,
        output_stride=options.output_stride,
        max_stride=options.max_stride,
        stride_style=options.stride_style,
        weights_from=options.weights_from,
        recompute=options.recompute,
        loss=loss,
        classes=classes,
    )
