"""Options of a detection run: data, model and evaluation.

This module does not import torch, so that `--help` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.common.options import option
from backbones.errors import require
from detection.settings import DetectorSettings


@dataclass
class DetectionDataOptions:
    """Options of a detection run's data set: images, annotations and augmentation.

    Args:
        data: folder of the data set in any of the layouts that `--layout list` prints, such as those of COCO, Pascal
            VOC, YOLO, Roboflow, CVAT or Label Studio; or YOLO's YAML file. Absent is the built-in data set of shapes.
        recipe: file of defaults in detection/recipes; auto is shapes without data, small for data of fewer than 5,000
            images, and coco for other data and for --eval-only.
        layout: name of the layout of `data`; absent: recognised from the files; list prints all layouts.
        annotations: annotation file of data that is not split, in place of `data`: a COCO JSON, or a file of CVAT,
            Label Studio or VIA.
        images: folder of the images of annotations.
        train_split: split of `data` to train on, such as trainval of VOC.
        val_split: split of `data` to evaluate on.
        train_annotations: annotation file of the training split, in place of the one in `data`.
        train_images: folder of the images of train_annotations.
        val_annotations: annotation file of the validation split, in place of the one in `data`.
        val_images: folder of the images of val_annotations.
        limit: use at most the first n images of each split.
        bits: bits that the values of 16-bit images use, 8 to 16, such as 12 for many cameras; absent: 16, and images of
            small values are refused. Predictions use it as well.
        negatives: keep trains on images without objects too; drop leaves them out.
        bad_boxes: whether a box without area inside its image is an error, or left out.
        without_mask: with --masks, whether an object without a usable mask is an error, has its box as its mask, or is
            left out.
        allow_outside: accept file names in a JSON that lead out of the image folder (absolute ones, and those with ..).
        augment: light flips; train flips, jitters colours and varies the size; lsj is large-scale jitter; strong also
            joins, crops and erases; eval changes nothing; or a YAML file with a list of steps (see docs/TRAINING.md);
            or the name of a registered augmentation.
        short_sides: short sides in pixels that augmentations train and strong choose from.
        repeat_threshold: repeat the training images of rare classes. A class in a fraction f of the images that is
            smaller than this threshold occurs sqrt(threshold / f) times per epoch; 0 repeats nothing, 0.001 is usual
            for LVIS.
        evaluator: library that computes COCO metrics. pycocotools is the slow reference with equal results.
    """

    data: str | None = None
    recipe: Literal["auto", "shapes", "coco", "coco-lsj", "small"] = option("auto", resume="free")
    layout: str | None = option(None, resume="free")
    annotations: str | None = None
    images: str | None = None
    train_split: str = "train"
    val_split: str = option("val", resume="evaluation")
    train_annotations: str | None = None
    train_images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    limit: int | None = None
    bits: int | None = None
    negatives: Literal["keep", "drop"] = "keep"
    bad_boxes: Literal["error", "drop"] = "error"
    without_mask: Literal["error", "box", "drop"] = "error"
    allow_outside: bool = option(False, resume="free")
    augment: str = "train"
    short_sides: list[int] | None = None
    repeat_threshold: float = 0.0
    evaluator: Literal["hotcoco", "pycocotools"] = option("hotcoco", resume="free")

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "limit", self.limit, "must be above 0")
        require(self.bits is None or 8 <= self.bits <= 16, "bits", self.bits, "must be 8 to 16")
        rare = 0 <= self.repeat_threshold <= 1
        require(rare, "repeat_threshold", self.repeat_threshold, "must be a fraction of the images, from 0 to 1")
        require(all(side > 0 for side in self.short_sides or ()), "short_sides", self.short_sides, "must be above 0")
        for split in ("", "train_", "val_"):
            file, folder = getattr(self, f"{split}annotations"), getattr(self, f"{split}images")
            both, option_name = (file is None) == (folder is None), f"--{split}images".replace("_", "-")
            require(both, f"{split}annotations", file, f"must be given together with {option_name}")
        one = self.annotations is None or (self.data is None and self.train_annotations is None)
        require(
            one, "annotations", self.annotations, "takes the place of --data and --train-annotations; leave them out"
        )


@dataclass(frozen=True)
class DetectorOptions(DetectorSettings):
    """Options of the detector: its backbone, neck, weights and settings.

    Args:
        backbone: a registered name; see backbones.names() or tools/list_backbones.py.
        weights: none, imagenet, a tag or a file for the backbone; coco or a detector's file for the whole detector.
        freeze: number of backbone stages that do not train (1 is the stem, 2 the stem and c2, ...). Absent is 2 with
            pretrained weights and 0 without.
    """

    backbone: str = option("resnet50", recorded=True)
    weights: str = "imagenet"
    freeze: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        files = self.weights_from is None or self.weights not in ("none", "imagenet", "coco")
        require(files, "weights_from", self.weights_from, "is for files; name one with --weights, or leave it out")
        fits = self.weights != "none" or not self.freeze
        require(fits, "freeze", self.freeze, "random weights must not be frozen; name --weights or leave --freeze out")

    @property
    def frozen_stages(self) -> int:
        """Return the number of frozen stages: `freeze`, or its default."""
        return self.freeze if self.freeze is not None else 2 if self.weights != "none" else 0


@dataclass
class DetectionEvaluationOptions:
    """Options of evaluation that improve detections but take more time.

    Args:
        refine: score the boxes found once more, unite both passes, and let overlapping boxes vote.
        test_sizes: short sides in pixels to view each image at. Absent is min_size alone.
        test_flip: also view each image flipped left to right.
        test_nms: IoU above which the weaker of two boxes of a class is removed. Absent is 0.5, or 0.3 with refine.
        soft_nms: lower the scores of overlapping boxes of a class instead of removing boxes (Bodla et al. 2017).
        ensemble: files of further detectors (model.safetensors of runs with any backbone) to average with.
    """

    refine: bool = option(False, resume="evaluation", recorded="evaluation")
    test_sizes: list[int] | None = option(None, resume="evaluation", recorded="evaluation")
    test_flip: bool = option(False, resume="evaluation", recorded="evaluation")
    test_nms: float | None = option(None, resume="evaluation", recorded="evaluation")
    soft_nms: bool = option(False, resume="evaluation", recorded="evaluation")
    ensemble: list[str] | None = option(None, resume="evaluation")

    def __post_init__(self) -> None:
        sizes = self.test_sizes is None or (self.test_sizes and min(self.test_sizes) > 0)
        require(sizes, "test_sizes", self.test_sizes, "must be sizes in pixels above 0, such as [640, 800, 960]")
        overlap = self.test_nms is None or 0 < self.test_nms <= 1
        require(overlap, "test_nms", self.test_nms, "must be above 0 and at most 1")
        both = self.soft_nms and self.test_nms is not None
        require(not both, "test_nms", self.test_nms, "has no effect with --soft-nms; leave one of them out")
