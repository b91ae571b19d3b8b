"""TODO-DOC detection/options.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.errors import require


@dataclass
class DataOptions:
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
        augment: "train" flips, jitters colours and varies the size; "light" only flips; "eval" does nothing.
        short_sides: sizes in pixels that augment "train" picks from.
        repeat_threshold: classes in a smaller share f of the training images than this make theirs come
            sqrt(threshold / f) times an epoch, each time augmented alike; 0 for once. 0.001 on LVIS.
        evaluator: what matches boxes; pycocotools is the slow reference with the same figures.
    """

    data: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    train_annotations: str | None = None
    train_images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    limit: int | None = None
    negatives: Literal["keep", "drop"] = "keep"
    bad_boxes: Literal["error", "drop"] = "error"
    allow_outside: bool = False
    augment: Literal["train", "light", "eval"] = "train"
    short_sides: list[int] | None = None
    repeat_threshold: float = 0.0
    evaluator: Literal["hotcoco", "pycocotools"] = "hotcoco"

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


@dataclass
class ModelOptions:
    """The detector.

    Args:
        backbone: a registered name; see `backbones.names()`.
        neck: fpn, c4 (conv5 as the RoI head) or dc5 (dilated conv5).
        weights: none, imagenet, a tag or a file for the backbone; coco or a detector's file for the whole net.
        norm: of the backbone; auto is frozen batch norm with weights, live without; sync is batch norm over the images
            of all processes together, on GPUs.
        freeze: backbone stages that stay as they are (1 stem, 2 stem and c2, ...); absent: 2 with weights, else 0.
        min_size: pixels of an image's short side in the net.
        max_size: most pixels of its long side.
        fpn_channels: width of the pyramid.
        fpn_norm: norm layers in the pyramid; from scratch they converge faster.
        head_channels: width of the two-layer box head.
        anchor_scale: anchor side over stride.
        rois_per_image: sampled for the box loss.
        roi_samples: RoIAlign's samples along each side of a cell.
        proposals: kept by the proposal net in evaluation; twice as many in training.
        context: join to each box's feature that of the whole image (global context of the ResNet paper).
    """

    backbone: str = "resnet50"
    neck: Literal["fpn", "c4", "dc5"] = "fpn"
    weights: str = "imagenet"
    norm: Literal["auto", "batch", "sync", "frozen", "group"] = "auto"
    freeze: int | None = None
    min_size: int = 800
    max_size: int = 1333
    fpn_channels: int = 256
    fpn_norm: Literal["none", "batch", "group"] = "none"
    head_channels: int = 1024
    anchor_scale: float = 8.0
    rois_per_image: int = 512
    roi_samples: int = 2
    proposals: int = 1000
    context: bool = False

    def __post_init__(self) -> None:
        for name in (
            "roi_samples",
            "min_size",
            "max_size",
            "fpn_channels",
            "head_channels",
            "anchor_scale",
            "rois_per_image",
            "proposals",
        ):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        pretrained = self.weights != "none"
        require(
            pretrained or not self.freeze, "freeze", self.freeze, "random weights must train; name --weights or take 0"
        )
        require(
            self.max_size >= self.min_size, "max_size", self.max_size, f"must not be below --min-size {self.min_size}"
        )

    @property
    def frozen_stages(self) -> int:
        """How many stages `freeze` means."""
        return self.freeze if self.freeze is not None else 2 if self.weights != "none" else 0


@dataclass
class EvaluationOptions:
    """More time for better detections; see detection/predict.py.

    Args:
        refine: score the boxes found once more, unite both passes, and let overlapping boxes vote.
        test_sizes: short sides in pixels to see each image at; absent: min_size alone.
        test_flip: see mirror images as well.
        test_nms: overlap from which the weaker of two boxes of a class goes; absent: 0.5, or 0.3 with refine.
        ensemble: files of further detectors (model.safetensors of runs of any backbone) to detect together with.
    """

    refine: bool = False
    test_sizes: list[int] | None = None
    test_flip: bool = False
    test_nms: float | None = None
    ensemble: list[str] | None = None

    def __post_init__(self) -> None:
        sizes = self.test_sizes is None or (self.test_sizes and min(self.test_sizes) > 0)
        require(sizes, "test_sizes", self.test_sizes, "must be pixels above 0, such as [640, 800, 960]")
        require(
            self.test_nms is None or 0 < self.test_nms <= 1, "test_nms", self.test_nms, "must be above 0, at most 1"
        )
