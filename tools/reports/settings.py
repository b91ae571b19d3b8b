"""Options of report.py on what a report shows: data folder, score threshold, numbers of images and resamples."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import require


@dataclass(frozen=True)
class ReportSettings:
    """Data folder, score threshold and number of images for a report.

    Args:
        data: folder of the data set, if it is no longer where the runs had it.
        score: least score of the detections in images, confusion matrices and counts of objects.
        images: number of images in a gallery.
        bootstrap: number of bootstrap resamples of the images for the intervals of differences; 0 for no intervals.
    """

    data: str | None = None
    score: float = 0.5
    images: int = 6
    bootstrap: int = 300

    def __post_init__(self) -> None:
        require(0 <= self.score <= 1, "score", self.score, "must be 0 to 1")
        require(self.images >= 0, "images", self.images, "must be 0 or above")
        require(self.bootstrap >= 0, "bootstrap", self.bootstrap, "must be 0 or above")
