"""Options of report.py on what a report shows: data folder, score threshold, numbers of images and resamples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backbones.common.device_options import DeviceOptions
from backbones.errors import require


@dataclass
class ReportSettings(DeviceOptions):
    """Data folder, score threshold and number of images for a report.

    Args:
        data: folder of the data set, if it is no longer where the runs had it.
        score: least score of the detections in images, confusion matrices and counts of objects.
        images: number of images in a gallery.
        explain: number of images with heat maps (Grad-CAM) of the most confident errors, and as many of correct
            predictions; they need the weights of the run. 0 for none.
        bootstrap: number of bootstrap resamples of the images for the intervals of differences; 0 for no intervals.
    """

    data: str | None = None
    score: float = 0.5
    images: int = 6
    explain: int = 3
    bootstrap: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        exists = self.data is None or Path(self.data).exists()
        require(exists, "data", self.data, "no such folder; check the path, or leave the option out")
        require(0 <= self.score <= 1, "score", self.score, "must be 0 to 1")
        require(self.images >= 0, "images", self.images, "must be 0 or above")
        require(self.explain >= 0, "explain", self.explain, "must be 0 or above")
        require(self.bootstrap >= 0, "bootstrap", self.bootstrap, "must be 0 or above")
