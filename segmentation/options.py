"""TODO-DOC segmentation/options.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.errors import require

LEAST_SCALE = 0.1


@dataclass
class DataOptions:
    """Images, label maps, and how they are looked at.

    Args:
        data: folder of images/SPLIT and labels/SPLIT with classes.txt, or in the layout of Pascal VOC or COCO; absent:
            the built-in shapes.
        recipe: file of defaults in segmentation/recipes; auto is standard for named data, else shapes.
        train_split: split to train on.
        val_split: split to measure.
        classes: of COCO data: all categories, or the 20 of Pascal VOC.
        ignore_index: number in label files of pixels that do not count.
        allow_outside: take file names of a JSON that lead out of the image folder (absolute ones, and those with ..).
        limit: use only the first n images of each split.
        augment: "train" varies size and colours, crops and flips; "light" crops and flips; "eval" does nothing.
        crop_size: side in pixels of what training sees.
        scales: smallest and largest factor of augment "train".
        min_size: short side in pixels to which evaluation resizes; 0 leaves images as they are.
        window: side in pixels of the windows that evaluation cuts larger images into; 0 for none.
        overlap: share of a window that the next one repeats.
        test_scales: sizes, as factors, over which evaluation averages.
        test_flip: average over mirror images as well.
    """

    data: str | None = None
    recipe: Literal["auto", "shapes", "standard", "camvid", "coco"] = "auto"
    train_split: str = "train"
    val_split: str = "val"
    classes: Literal["all", "voc"] = "all"
    ignore_index: int = 255
    allow_outside: bool = False
    limit: int | None = None
    augment: Literal["train", "light", "eval"] = "train"
    crop_size: int = 480
    scales: tuple[float, float] = (0.5, 2.0)
    min_size: int = 0
    window: int = 0
    overlap: float = 0.25
    test_scales: list[float] | None = None
    test_flip: bool = False

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "limit", self.limit, "must be above 0")
        require(self.crop_size > 0, "crop_size", self.crop_size, "must be above 0")
        require(0 <= self.ignore_index <= 255, "ignore_index", self.ignore_index, "must be 0 to 255")
        for name in ("min_size", "window"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or above")
        alone = not (self.window and self.min_size)
        require(alone, "window", self.window, "windows are cut of images at their own size; take --min-size 0 with it")
        require(0 <= self.overlap < 1, "overlap", self.overlap, "must be at least 0 and below 1")
        unused = not self.window and self.overlap != DataOptions.overlap
        require(not unused, "overlap", self.overlap, "is that of windows; name --window as well")
        rising = LEAST_SCALE <= self.scales[0] <= self.scales[1]
        require(rising, "scales", self.scales, f"must be two rising factors from {LEAST_SCALE}, such as [0.5, 2.0]")
        usable = self.test_scales is None or (self.test_scales and min(self.test_scales) >= LEAST_SCALE)
        rule = f"must be factors from {LEAST_SCALE}, such as [0.75, 1.0, 1.25]"
        require(usable, "test_scales", self.test_scales, rule)


@dataclass
class ModelOptions:
    """The net and its loss.

    Args:
        backbone: a registered name; see `backbones.names()`.
        head: dilated (the last stages dilate), or fcn32s, fcn16s, fcn8s (scores of one, two, three features).
        output_stride: of the backbone; absent: 8 for dilated, else 32.
        max_stride: stages of the backbone beyond it are dropped, so that the head scores finer ones; absent: none are.
        aux: a second loss on the feature before the last.
        weights: none, imagenet, a tag or a file for the backbone; coco or a segmentation net's file for the whole net.
        norm: of the backbone; auto is live batch norm; sync is that over the images of all processes together, on GPUs.
        freeze: backbone stages that stay as they are (1 stem, 2 stem and the first stage, ...).
        loss: ce; ohem (cross-entropy of the hardest quarter of the pixels); dice (cross-entropy and Dice).
        class_weights: median weighs classes by the inverse of their frequency, relative to the median.
    """

    backbone: str = "resnet50"
    head: Literal["dilated", "fcn32s", "fcn16s", "fcn8s"] = "dilated"
    output_stride: Literal[8, 16, 32] | None = None
    max_stride: Literal[4, 8, 16, 32] | None = None
    aux: bool = True
    weights: str = "imagenet"
    norm: Literal["auto", "batch", "sync", "frozen", "group"] = "auto"
    freeze: int = 0
    loss: Literal["ce", "ohem", "dice"] = "ce"
    class_weights: Literal["none", "median"] = "none"

    def __post_init__(self) -> None:
        pretrained = self.weights != "none"
        require(
            pretrained or not self.freeze, "freeze", self.freeze, "random weights must train; name --weights or take 0"
        )
