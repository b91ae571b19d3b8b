"""A trained segmentation net, ready to predict: `load(run)(images)`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backbones.common.images import Image, pixels_of
from backbones.errors import UserError
from backbones.trained import TrainedNet, find
from segmentation.data.dataset import read_image
from segmentation.data.labels import Classes
from segmentation.fcn import FCN, build
from segmentation.losses import PixelLoss
from segmentation.predict import Predictor

BUILT_WITH = ("head", "aux", "norm", "output_stride", "max_stride")
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
        look: keywords of `segmentation.Predictor` (window, overlap, min_size, scales, flip) in place of the run's own.

    Raises:
        UserError: where there is no segmentation net of ours.
    """
    trained = find(run, task="segmentation")
    with trained.understood():
        net, config = rebuild(trained.meta, trained.path), trained.config
        own = {
            "min_size": trained.meta["input"]["min_size"],
            "window": config.get("window", 0),
            "overlap": config.get("overlap", 0.25),
            "scales": config.get("test_scales") or (1.0,),
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
    found = pixels_of(image, partial(read_image, way_out="replace it"), in_channels=in_channels, turn=False)
    height, width = found.shape[-2:]
    if min_size and height * width * (min_size / min(height, width)) ** 2 > MOST_PIXELS:
        name = image if isinstance(image, (str, os.PathLike)) else "an image"
        raise UserError(f"{name}: is {width}x{height} pixels, too thin for a short side of {min_size}; crop it")
    return found


def rebuild(meta: Mapping[str, Any], weights: str | os.PathLike[str] | None) -> FCN:
    """Build the segmentation model that a run's `meta` describes, with the normalisation of that run.

    Args:
        meta: as the run's files hold it.
        weights: the run's weights file. None: random weights with live batch norm and the loss of the run, to be
            filled by the caller; so are the loss's class weights, where it has some.

    Raises:
        UserError: for a file that lacks weights of the model.
    """
    options, seen = dict(meta["model"]), meta["input"]
    num_classes = len(meta["classes"])
    loss = None
    if weights is None:
        options["norm"] = "group" if options["norm"] == "group" else "batch"
        loss = PixelLoss(options["loss"], torch.ones(num_classes) if options["class_weights"] != "none" else None)
    model = build_from_options(
        options, weights, num_classes=num_classes, in_channels=seen.get("in_channels", 3), loss=loss
    )
    if weights is not None:
        missing = model.load_report.missing if model.load_report else ("the head",)
        lacking = [name for name in missing if not name.startswith("aux_classifier.")]
        if lacking:
            raise UserError(f"{weights}: is not whole: {lacking[0]} is missing")
    model.backbone.mean, model.backbone.std = tuple(seen["mean"]), tuple(seen["std"])
    return model


def build_from_options(
    options: Mapping[str, Any],
    weights: str | os.PathLike[str] | None,
    *,
    num_classes: int,
    in_channels: int = 3,
    loss: nn.Module | None = None,
) -> FCN:
    """Build a segmentation model from the model options of a run, by name."""
    own = {name: options[name] for name in BUILT_WITH if name in options}
    return build(options["backbone"], num_classes, weights=weights, in_channels=in_channels, loss=loss, **own)
