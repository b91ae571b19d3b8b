"""TODO-DOC classification/options.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.errors import require


@dataclass
class DataOptions:
    """Images and what is done to them.

    Args:
        data: folder with train/CLASS/* and val/CLASS/*, or folder or URL of tar shards; absent: the built-in shapes.
        recipe: file of defaults in classification/recipes; auto is standard for named data, else shapes.
        in_channels: channels of the images; absent: what the first file has (three of a picture).
        normalise: backbone takes mean and deviation as the net's weights expect, data those of the training images.
        augment: what training does to an image; see classification/transforms.py.
        crop_size: side in pixels of what the net sees; absent: that of the named weights, else 224.
        resize_size: shorter side before the crop in evaluation; absent: the named weights', else 8/7 of the crop.
        interpolation: of resizing in evaluation; absent: the named weights', else bilinear.
        test_crops: center; ten (corners, centre, mirrored); multiscale (whole images at five sizes, as in table 4).
        train_eval: training images measured like the validation ones at each evaluation, for curves; not of tar shards.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none.
        shuffle_buffer: images that a process holds to shuffle tar shards.
        limit: use only n images of each split, evenly spread over the classes.
    """

    data: str | None = None
    recipe: Literal["auto", "shapes", "standard", "paper", "modern", "cifar"] = "auto"
    in_channels: int | None = None
    normalise: Literal["backbone", "data"] = "backbone"
    augment: Literal["standard", "paper", "modern", "cifar", "light", "none"] = "standard"
    crop_size: int | None = None
    resize_size: int | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    test_crops: Literal["center", "ten", "multiscale"] = "center"
    train_eval: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    shuffle_buffer: int = 4096
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("in_channels", "crop_size", "resize_size", "shuffle_buffer", "limit"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "must be above 0")
        for name in ("train_eval", "mixup", "cutmix"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or above")
        crop, resize = self.crop_size, self.resize_size
        fits = crop is None or resize is None or resize >= crop
        require(fits, "resize_size", resize, f"must not be below --crop-size {crop}")


def require_mixable(data: DataOptions, *, floating: bool) -> None:
    """Refuse mixup and CutMix of floating arrays, which are no colours between 0 and 255.

    Raises:
        UserError: where the images are such and either is asked for.
    """
    for name in ("mixup", "cutmix"):
        value = getattr(data, name)
        require(not (floating and value), name, value, "the data are floating arrays, which do not mix; take 0")


@dataclass
class ModelOptions:
    """The net.

    Args:
        backbone: a registered name; see `backbones.names()`.
        weights: none, imagenet, a tag, or a file; the last layer is taken where the classes are as many.
        shortcut: option A, B or C of the paper; absent: the net's own.
        stride_style: v1.5, or v1 for the bottlenecks of the paper (stride on the first 1x1); absent: v1.5; ours only.
        norm: of the backbone; sync is batch norm over the images of all processes together, on GPUs.
        freeze: backbone stages that stay as they are (1 stem, 2 stem and the first stage, ...).
        label_smoothing: of the training loss.
        recompute: keep only the blocks' inputs in training and compute the rest twice: memory for time; ours only.
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    shortcut: Literal["A", "B", "C"] | None = None
    stride_style: Literal["v1.5", "v1"] | None = None
    norm: Literal["batch", "sync", "frozen", "group"] = "batch"
    freeze: int = 0
    label_smoothing: float = 0.0
    recompute: bool = False

    def __post_init__(self) -> None:
        pretrained = self.weights != "none"
        require(
            pretrained or not self.freeze, "freeze", self.freeze, "random weights must train; name --weights or take 0"
        )
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "must be 0 or above, below 1")
