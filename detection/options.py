"""Options of a detection run: data, model and evaluation. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.common.options import option
from backbones.errors import require
from detection.settings import DetectorSettings


@dataclass
class DetectionDataOptions:
    """Images and annotations.

    Args:
        data: folder in COCO's layout (annotations/instances_train*.json, train*/, the same for val), Pascal VOC's
            (Annotations/, JPEGImages/, ImageSets/Main/train.txt) or YOLO's (images/train, labels/train and data.yaml or
            classes.txt); absent: shapes.
        train_split: split of `data` to train on, such as VOC's trainval.
        val_split: split of `data` to measure.
        train_annotations: JSON file of the training split, instead of the one in `data`.
        train_images: its image folder.
        val_annotations: JSON file of the validation split, instead of the one in `data`.
        val_images: its image folder.
        limit: use only the first n images of each split.
        negatives: images without objects are trained on, or dropped.
        bad_boxes: boxes without area inside their image are an error, or dropped.
        allow_outside: take file names of a JSON that lead out of the image folder (absolute ones, and those with ..).
        augment: "train" flips, jitters colours and varies the size; "light" only flips; "eval" does nothing; or the
            name of a registered augmentation.
        short_sides: sizes in pixels that augment "train" picks from.
        repeat_threshold: classes in a smaller share f of the training images than this make theirs come
            sqrt(threshold / f) times an epoch, each time augmented alike; 0 for once. 0.001 on LVIS.
        evaluator: what matches boxes; pycocotools is the slow reference with the same figures.
    """

    data: str | None = None
    train_split: str = "train"
    val_split: str = option("val", resume="evaluation")
    train_annotations: str | None = None
    train_images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    limit: int | None = None
    negatives: Literal["keep", "drop"] = "keep"
    bad_boxes: Literal["error", "drop"] = "error"
    allow_outside: bool = option(False, resume="free")
    augment: str = "train"
    short_sides: list[int] | None = None
    repeat_threshold: float = 0.0
    evaluator: Literal["hotcoco", "pycocotools"] = option("hotcoco", resume="free")

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "limit", self.limit, "must be above 0")
        rare = 0 <= self.repeat_threshold <= 1
        require(rare, "repeat_threshold", self.repeat_threshold, "must be a share of the images, 0 to 1")
        require(all(side > 0 for side in self.short_sides or ()), "short_sides", self.short_sides, "must be above 0")
        for split in ("train", "val"):
            given = getattr(self, f"{split}_annotations"), getattr(self, f"{split}_images")
            require(
                (given[0] is None) == (given[1] is None),
                f"{split}_annotations",
                given[0],
                f"goes with --{split}-images",
            )


@dataclass(frozen=True)
class DetectorOptions(DetectorSettings):
    """The detector.

    Args:
        backbone: a registered name; see backbones.names() or tools/list_backbones.py.
        weights: none, imagenet, a tag or a file for the backbone; coco or a detector's file for the whole detector.
        freeze: number of backbone stages that do not train (1 is the stem, 2 the stem and c2, ...). Absent is 2 with
            pretrained weights and 0 without.
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    freeze: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.weights != "none" or not self.freeze
        require(fits, "freeze", self.freeze, "random weights must train; name --weights or leave --freeze out")

    @property
    def frozen_stages(self) -> int:
        """Return the number of frozen stages that `freeze` stands for."""
        return self.freeze if self.freeze is not None else 2 if self.weights != "none" else 0


@dataclass
class DetectionEvaluationOptions:
    """More time for better detections; see detection/predict.py.

    Args:
        refine: score the boxes found once more, unite both passes, and let overlapping boxes vote.
        test_sizes: short sides in pixels to see each image at; absent: min_size alone.
        test_flip: see mirror images as well.
        test_nms: overlap from which the weaker of two boxes of a class goes; absent: 0.5, or 0.3 with refine.
        ensemble: files of further detectors (model.safetensors of runs of any backbone) to detect together with.
    """

    refine: bool = option(False, resume="evaluation")
    test_sizes: list[int] | None = option(None, resume="evaluation")
    test_flip: bool = option(False, resume="evaluation")
    test_nms: float | None = option(None, resume="evaluation")
    ensemble: list[str] | None = option(None, resume="evaluation")

    def __post_init__(self) -> None:
        sizes = self.test_sizes is None or (self.test_sizes and min(self.test_sizes) > 0)
        require(sizes, "test_sizes", self.test_sizes, "must be pixels above 0, such as [640, 800, 960]")
        require(
            self.test_nms is None or 0 < self.test_nms <= 1, "test_nms", self.test_nms, "must be above 0, at most 1"
        )
