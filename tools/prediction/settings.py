"""Settings of a prediction: results to keep, tiles for large images, batch size, device and precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.common.device_options import DeviceOptions
from backbones.errors import require

SMALLEST_TILE = 16  # pixels
FORMS = ("coco", "csv", "yolo", "voc", "crops")


@dataclass
class PredictionSettings(DeviceOptions):
    """Results to keep, tiles for large images, batch size, device and precision.

    Args:
        score: least score of a detection; best is the score with the highest F1 in the run's evaluation, for each
            class; absent: 0.05, the model's own limit, and drawn images show detections from 0.5.
        classes: names of the classes to report, with commas between; label maps keep all classes and colour these.
            Absent: all.
        top: number of classes in a ranking.
        tile: side in pixels of the overlapping tiles that larger images are cut into; auto is the size that the model
            was trained at; absent: images are processed whole, or as the run's evaluation did.
        overlap: fraction of a tile that the next tile repeats; absent: 0.25, or the run's own.
        draw: draw the results on the images.
        save: forms of the results, with commas between. Detectors write coco, csv, yolo (a text file for each image),
            voc (an XML file for each image) and crops (the part of the image in each box). Label maps are written as
            PNGs, and also as coco and csv; rankings as csv. Absent: coco for detectors.
        masks_as: form of the masks of a detector. rle: COCO's run lengths, in coco. polygons: a polygon along the edges
            of the pixels, in coco and yolo. png: an image for each image, in masks/, whose pixels hold the number of
            their detection.
        video_stride: of videos, cameras and streams, predict only every frame of this number.
        batch_size: number of images that are predicted at once; on a CPU they are divided among the cores.
        workers: processes that read images; absent: one per core, at most four.
        threads: CPU threads of the model; absent: $OMP_NUM_THREADS if it is set, else one per core.
        precision: precision of the model's computation; absent: the run's own.
    """

    score: float | Literal["best"] | None = None
    classes: str | None = None
    top: int = 5
    tile: int | Literal["auto"] | None = None
    overlap: float | None = None
    draw: bool = True
    save: str | None = None
    masks_as: Literal["rle", "polygons", "png"] = "rle"
    video_stride: int = 1
    batch_size: int = 8
    workers: int | None = None
    threads: int | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range = self.score in (None, "best") or 0 <= float(self.score or 0) <= 1
        require(in_range, "score", self.score, "must be between 0 and 1, or best")
        require(self.overlap is None or 0 <= self.overlap < 1, "overlap", self.overlap, "must be at least 0, below 1")
        is_large = self.tile in (None, "auto") or int(self.tile or 0) >= SMALLEST_TILE
        require(is_large, "tile", self.tile, f"must be {SMALLEST_TILE} or more")
        require(self.threads is None or self.threads > 0, "threads", self.threads, "must be above 0")
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "must be 0 or above")
        for name in self.forms:
            require(name in FORMS, "save", name, f"expected names among {', '.join(FORMS)}")
        for name in ("top", "batch_size", "video_stride"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")

    @property
    def forms(self) -> list[str]:
        """The names in the option `save` as a list; empty if it is absent."""
        return [name.strip() for name in self.save.split(",")] if self.save else []

    @property
    def class_names(self) -> list[str]:
        """The class names in the option `classes` as a list; empty for all classes."""
        return [name.strip() for name in self.classes.split(",")] if self.classes else []
