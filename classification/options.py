"""Options of a classification run: its images and its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.common.options import option
from backbones.errors import require


@dataclass
class ClassReadingOptions:
    """Options on the classes of images: from file names, or from the columns of a CSV file.

    Args:
        label_from: regular expression that is searched in the path of each image; its first group is the class.
        image_column: name of the column of a CSV file with the paths of the images; absent: image, filename, path or
            another usual name.
        label_column: name of the column of a CSV file with the classes; absent: label, class or another usual name.
        split_column: name of the column of a CSV file with the splits; absent: split, set, subset or partition.
        label_separator: text between the classes of an image in a CSV file.
        multi_label: whether an image may have several classes, or none; absent: whether an image of the data has.
    """

    label_from: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    label_separator: str = ";"
    multi_label: bool | None = None

    def __post_init__(self) -> None:
        require(self.label_separator, "label_separator", self.label_separator, "must not be empty")


@dataclass
class ClassificationDataOptions:
    """Options of a classification run's data set and of the preparation of its images.

    Args:
        data: folder of train/CLASS/* and val/CLASS/*, of CLASS/*, or of images with a CSV file; a CSV file; folder or
            URL of tar shards; absent: the built-in shapes. docs/DATA.md lists the layouts.
        recipe: file of defaults in classification/recipes; auto is standard with --data and shapes without.
        train_split: name of the training split, such as its folder.
        val_split: name of the validation split; val stands for valid, validation or dev as well, if there is no val.
        allow_outside: accept paths in a CSV file that lead out of its folder (absolute ones, and those with ..).
        in_channels: channels of the images; absent: as many as the first file has (three for an image).
        bits: bits that the values of 16-bit images use, 8 to 16, such as 12 for many cameras; absent: 16, and images of
            small values are refused. Predictions use it as well.
        normalise: backbone uses the mean and std that the weights were trained with; data measures them on the training
            images.
        augment: augmentation of the training images: standard, paper, modern, cifar, light, none, or the name that a
            plugin registers; see classification/transforms.py.
        crop_size: side in pixels of the square that the model gets; absent: that of the chosen weights, else 224.
        resize_size: shorter side in pixels before the crop in evaluation; absent: that of the chosen weights, else 8/7
            of the crop.
        interpolation: how evaluation resizes; absent: as the chosen weights were measured, else bilinear.
        test_crops: center; ten (corners and centre, and their mirror images); multiscale (whole images at five sizes,
            as in table 4).
        train_eval: number of training images to measure like the validation images at each evaluation, for learning
            curves; 0 for none; not possible with tar shards.
        sampling: balanced draws each class equally often, so that rare classes repeat their images and frequent ones
            leave some out; an epoch has as many images as before. all uses every image once in an epoch.
        choose_by: metric that chooses the best model of the run: top1, balanced_accuracy or macro_f1; mAP or macro_f1
            with several classes an image; auto is the first of them.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none.
        shuffle_buffer: images that a process holds in memory to shuffle tar shards.
        sample: use only n images of each split, evenly spread over the classes.
    """

    data: str | None = None
    recipe: Literal["auto", "shapes", "standard", "paper", "modern", "cifar"] = "auto"
    train_split: str = "train"
    val_split: str = option("val", resume="evaluation")
    allow_outside: bool = option(False, resume="free")
    in_channels: int | None = None
    bits: int | None = None
    normalise: Literal["backbone", "data"] = "backbone"
    augment: str = "standard"
    crop_size: int | None = None
    resize_size: int | None = option(None, resume="evaluation")
    interpolation: Literal["bilinear", "bicubic"] | None = None
    test_crops: Literal["center", "ten", "multiscale"] = option("center", resume="evaluation", recorded="evaluation")
    train_eval: int = 0
    sampling: Literal["all", "balanced"] = "all"
    choose_by: Literal["auto", "top1", "balanced_accuracy", "macro_f1", "mAP"] = "auto"
    mixup: float = 0.0
    cutmix: float = 0.0
    shuffle_buffer: int = 4096
    sample: int | None = option(None, formerly="limit")

    def __post_init__(self) -> None:
        for name in ("in_channels", "crop_size", "resize_size", "shuffle_buffer", "sample"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "must be above 0")
        require(self.bits is None or 8 <= self.bits <= 16, "bits", self.bits, "must be 8 to 16")
        for name in ("train_eval", "mixup", "cutmix"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or above")
        crop, resize = self.crop_size, self.resize_size
        fits = crop is None or resize is None or resize >= crop
        require(fits, "resize_size", resize, f"must not be below --crop-size {crop}")


def require_mixable(data: ClassificationDataOptions, *, floating: bool) -> None:
    """Refuse mixup and CutMix for floating-point images, because both work only on uint8 images.

    Args:
        floating: whether the images are floating arrays.

    Raises:
        UserError: if the images are floating arrays and mixup or CutMix is on.
    """
    for name in ("mixup", "cutmix"):
        value = getattr(data, name)
        require(
            not (floating and value), name, value, "works only on uint8 images, not on floating-point arrays; use 0"
        )


@dataclass
class ClassifierOptions:
    """Options of the classification model and its loss.

    Args:
        backbone: a registered name; see `backbones.names()`.
        weights: none, imagenet, a tag, or a file; the last layer is loaded as well if its number of classes fits.
        shortcut: option A, B or C of the paper; absent: the model's own.
        stride_style: v1.5, or v1 for the bottlenecks of the paper (stride on the first 1x1); absent: that of the
            weights if it is known, else v1.5; only for our own models.
        weights_from: program that made the weights file, such as detectron2, moco or simclr; it sets channel order,
            normalisation and stride style, which the file does not say.
        norm: norm layers of the backbone; sync is batch norm over the images of all processes together, on GPUs.
        freeze: number of backbone stages that do not train (1: stem; 2: stem and first stage; ...).
        label_smoothing: label smoothing of the training loss, 0 to 1 (Szegedy et al. 2016).
        class_weights: weights of the loss against unequal numbers of images. balanced is the inverse of each class's
            number of training images, sqrt its square root; the mean weight of an image is 1. With several classes an
            image, the weight of a positive example is the ratio of negative to positive ones, or its square root.
        recompute: in training, store only the inputs of the blocks and compute the rest again for the backward pass:
            less memory, more time; only for our own models.
    """

    backbone: str = option("resnet50", recorded=True)
    weights: str = "imagenet"
    shortcut: Literal["A", "B", "C"] | None = option(None, recorded=True)
    stride_style: Literal["v1.5", "v1"] | None = option(None, recorded=True)
    weights_from: str | None = option(None, recorded=True)
    norm: Literal["batch", "sync", "frozen", "group"] = "batch"
    freeze: int = 0
    label_smoothing: float = option(0.0, recorded="evaluation")
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    recompute: bool = False

    def __post_init__(self) -> None:
        files = self.weights_from is None or self.weights not in ("none", "imagenet", "coco")
        require(files, "weights_from", self.weights_from, "is for files; name one with --weights, or leave it out")
        trainable = self.weights != "none" or not self.freeze
        require(trainable, "freeze", self.freeze, "random weights must not be frozen; use 0, or name --weights")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "must be 0 or above, below 1")
