"""Options of a segmentation run: its data set and its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.common.category_options import CategoryOptions
from backbones.common.options import option
from backbones.errors import require

LEAST_SCALE = 0.1


@dataclass
class SegmentationDataOptions:
    """Options of a segmentation run's data set and of the preparation of its images and label maps.

    Args:
        data: folder of images/SPLIT and labels/SPLIT with classes.txt, or in the layout of Pascal VOC or COCO; absent:
            the built-in shapes.
        recipe: file of defaults in segmentation/recipes; auto is standard with --data and shapes without.
        train_split: name of the split to train on.
        val_split: name of the split to evaluate on.
        classes: all classes of the data, or the classes to keep, such as "car,person"; voc: the 20 classes of Pascal
            VOC in COCO's layout. Pixels of other classes are background, or ignored if the data have no background.
        drop_classes: classes to leave out, such as "sky,void".
        merge_classes: classes to unite, as NEW=OLD,OLD; several unions are separated by semicolons, such as
            "vehicle=car,truck; way=road,pavement".
        rename: new names of classes, as OLD=NEW, separated by commas.
        keep_unused: keep classes that no pixel of the training and validation images has. By default such classes are
            dropped, except a background (class 0) and the classes of `classes` voc.
        bits: bits that the values of 16-bit images use, 8 to 16, such as 12 for many cameras; absent: 16, and images of
            small values are refused. Predictions use it as well.
        in_channels: channels of the images; absent: as many as the first file has (three for an image). Arrays (.npy)
            and TIFF files may have any number; 1 converts images to grey.
        normalise: backbone uses the mean and std that the weights were trained with; data measures them on the training
            images, for each channel.
        ignore_index: number in the label files that marks pixels to ignore.
        allow_outside: accept file names in a JSON that lead out of the image folder (absolute ones, and those with ..).
        limit: use only the first n images of each split.
        augment: light crops and flips; train also varies size and colours; lsj is large-scale jitter; strong is train
            with stronger colours and erased parts; eval changes nothing; or a YAML file with a list of albumentations'
            transforms; or the name of a registered augmentation.
        crop_size: side in pixels of the square training crops.
        scales: smallest and largest resize factor of augment train and strong.
        min_size: shorter side in pixels to which evaluation resizes; 0 leaves images as they are.
        tile: side in pixels of the tiles into which evaluation cuts larger images; 0 for none.
        overlap: fraction of a tile that the next tile repeats.
        test_scales: factors of the image size over which evaluation averages, such as [0.75, 1.0, 1.25]; detection has
            test_sizes instead, in pixels.
        test_flip: average over mirror images as well.
    """

    data: str | None = None
    recipe: Literal["auto", "shapes", "standard", "camvid", "coco"] = "auto"
    train_split: str = "train"
    val_split: str = option("val", resume="evaluation")
    classes: str = "all"
    drop_classes: str | None = None
    merge_classes: str | None = None
    rename: str | None = None
    keep_unused: bool = False
    bits: int | None = None
    in_channels: int | None = None
    normalise: Literal["backbone", "data"] = "backbone"
    ignore_index: int = 255
    allow_outside: bool = option(False, resume="free")
    limit: int | None = None
    augment: str = "train"
    crop_size: int = 480
    scales: tuple[float, float] = (0.5, 2.0)
    min_size: int = option(0, resume="evaluation", recorded="evaluation")
    tile: int = option(0, resume="evaluation", formerly="window", recorded="evaluation")
    overlap: float = option(0.25, resume="evaluation", recorded="evaluation")
    test_scales: list[float] | None = option(None, resume="evaluation", recorded="evaluation")
    test_flip: bool = option(False, resume="evaluation", recorded="evaluation")

    def __post_init__(self) -> None:
        self.categories()
        require(self.limit is None or self.limit > 0, "limit", self.limit, "must be above 0")
        require(self.bits is None or 8 <= self.bits <= 16, "bits", self.bits, "must be 8 to 16")
        require(self.in_channels is None or self.in_channels > 0, "in_channels", self.in_channels, "must be above 0")
        require(self.crop_size > 0, "crop_size", self.crop_size, "must be above 0")
        require(0 <= self.ignore_index <= 255, "ignore_index", self.ignore_index, "must be 0 to 255")
        for name in ("min_size", "tile"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or above")
        alone = not (self.tile and self.min_size)
        require(alone, "tile", self.tile, "needs --min-size 0, because tiles are cut from images that are not resized")
        require(0 <= self.overlap < 1, "overlap", self.overlap, "must be at least 0 and below 1")
        unused = not self.tile and self.overlap != SegmentationDataOptions.overlap
        require(not unused, "overlap", self.overlap, "has no effect without tiles; give --tile as well")
        rising = LEAST_SCALE <= self.scales[0] <= self.scales[1]
        require(rising, "scales", self.scales, f"must be two rising factors from {LEAST_SCALE}, such as [0.5, 2.0]")
        usable = self.test_scales is None or (self.test_scales and min(self.test_scales) >= LEAST_SCALE)
        rule = f"must be factors from {LEAST_SCALE}, such as [0.75, 1.0, 1.25]"
        require(usable, "test_scales", self.test_scales, rule)

    def categories(self) -> CategoryOptions:
        """Return the options that change the classes. They are merged first, then renamed, then chosen.

        Raises:
            UserError: an option is malformed.
        """
        kept = None if self.classes in ("all", "voc") else self.classes
        keep_unused = self.keep_unused or self.classes == "voc"
        return CategoryOptions(kept, self.drop_classes, self.merge_classes, self.rename, keep_unused)


@dataclass
class SegmenterOptions:
    """Options of the segmentation model and its loss.

    Args:
        backbone: a registered name; see `backbones.names()`.
        head: a registered head: dilated (scores the last feature of a backbone whose last stages dilate), fcn32s,
            fcn16s or fcn8s (score one, two or three features), or one that a plugin registers.
        output_stride: stride of the backbone's last feature; absent: 8 for dilated, else 32.
        max_stride: largest stride in the backbone: later stages are dropped, so that the head scores finer features;
            absent: all stages are kept. 16 suits small images.
        aux: add a second loss in training, on scores of the feature before the last.
        binary: one output for two classes, whose sigmoid is the probability of the second class, instead of two.
        weights: none, imagenet, a tag or a file for the backbone; coco or a segmentation model's file for the whole
            model.
        stride_style: v1.5, or v1 for the bottlenecks of the paper (stride on the first 1x1); absent: that of the
            weights if it is known, else v1.5; only for our own models.
        weights_from: program that made the weights file, such as detectron2, moco or simclr; it sets channel order,
            normalisation and stride style, which the file does not say.
        norm: norm layers of the backbone; auto is live batch norm; sync is batch norm over the images of all processes
            together, in the heads as well, on GPUs.
        recompute: in training, store only the inputs of the backbone's blocks and compute the rest again for the
            backward pass: less memory, more time, the same bits; only for our own backbones.
        freeze: number of backbone stages that do not train (1: stem; 2: stem and first stage; ...).
        loss: ce; ohem (cross-entropy of the hardest quarter of the pixels); dice (cross-entropy plus Dice).
        class_weights: median weights each class by the inverse of its frequency, relative to the median.
    """

    backbone: str = option("resnet50", recorded=True)
    head: str = option("dilated", recorded=True)
    output_stride: Literal[8, 16, 32] | None = option(None, recorded="default")
    max_stride: Literal[4, 8, 16, 32] | None = option(None, recorded=True)
    aux: bool = option(True, recorded="default")
    binary: bool = option(False, recorded="default")
    weights: str = "imagenet"
    stride_style: Literal["v1.5", "v1"] | None = option(None, recorded=True)
    weights_from: str | None = option(None, recorded=True)
    norm: Literal["auto", "batch", "sync", "frozen", "group"] = "auto"
    recompute: bool = option(False, resume="free")
    freeze: int = 0
    loss: Literal["ce", "ohem", "dice"] = "ce"
    class_weights: Literal["none", "median"] = "none"

    def __post_init__(self) -> None:
        files = self.weights_from is None or self.weights not in ("none", "imagenet", "coco")
        require(files, "weights_from", self.weights_from, "is for files; name one with --weights, or leave it out")
        trainable = self.weights != "none" or not self.freeze
        require(trainable, "freeze", self.freeze, "random weights must not be frozen; use 0, or name --weights")
