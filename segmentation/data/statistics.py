"""Counts the pixels of each class in label maps, to detect data that no model can be trained or evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from backbones.common.datasets import spread
from backbones.errors import UserError, first_names
from segmentation.data.classes import IGNORE
from segmentation.data.dataset import LabelSource

SAMPLE = 100  # label maps that are read for the plan of a run
MOSTLY = 0.5  # fraction of ignored pixels above which a warning is due


@dataclass(frozen=True)
class LabelStatistics:
    """Numbers of pixels of each class in the label maps that were read.

    Attributes:
        names: class names.
        pixels: pixels `[K]` of each class.
        ignored: pixels that count in no loss and no metric.
        read: number of label maps that were read.
        maps: number of label maps of the split.
    """

    names: tuple[str, ...]
    pixels: np.ndarray
    ignored: int
    read: int
    maps: int

    @classmethod
    def of(cls, names: Sequence[str], label_maps: Iterable[np.ndarray], *, maps: int) -> LabelStatistics:
        """Count the pixels of label maps `[H, W]` uint8."""
        counts, read = np.zeros(IGNORE + 1, np.int64), 0
        for labels in label_maps:
            counts += np.bincount(labels.ravel(), minlength=IGNORE + 1)
            read += 1
        return cls(tuple(names), counts[: len(names)], int(counts[IGNORE]), read, maps)

    @property
    def absent(self) -> list[str]:
        """Names of the classes without a pixel."""
        return [name for name, count in zip(self.names, self.pixels, strict=True) if not count]

    @property
    def ignored_fraction(self) -> float:
        """Fraction of the pixels that are ignored."""
        return self.ignored / max(1, self.ignored + int(self.pixels.sum()))

    @property
    def useless(self) -> str:
        """Reason why no model can be trained or evaluated on these pixels; empty if there is none."""
        present = [name for name, count in zip(self.names, self.pixels, strict=True) if count]
        if not present:
            return "all pixels of the label maps are ignored"
        return f"all pixels that are not ignored have the class {present[0]}" if len(present) == 1 else ""

    def __str__(self) -> str:
        parts = [f"{self.read} of {self.maps} label maps read", f"{self.ignored_fraction:.1%} of their pixels ignored"]
        if self.ignored_fraction > MOSTLY:
            parts[-1] += " (WARNING: more than half)"
        if self.absent:
            parts.append(f"WARNING: no pixel of {first_names(self.absent)}")
        return "; ".join(parts)


def measure_labels(source: LabelSource, rows: Sequence[int] | np.ndarray) -> LabelStatistics:
    """Count the pixels of each class in at most `SAMPLE` label maps, or in all if no class can be learned from these.

    Args:
        source: label maps.
        rows: the label maps that a run uses.

    Raises:
        UserError: all pixels are ignored or have one class, so that every metric would be meaningless; or a label map
            cannot be read.
    """

    def count(chosen: np.ndarray) -> LabelStatistics:
        label_maps = (source.labels(int(row), source.size(int(row))) for row in chosen)
        return LabelStatistics.of(source.classes.names, label_maps, maps=len(rows))

    rows = np.asarray(rows)
    found = count(rows[spread(len(rows), SAMPLE)])
    if found.useless and found.read < found.maps:
        found = count(rows)
    if found.useless:
        raise UserError(
            f"{source.where}: {found.useless}, so that there is nothing to learn or measure; check the values in the "
            "label maps, the list of classes and --ignore-index"
        )
    return found


def measure_channels(source: LabelSource, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of each channel over at most `SAMPLE` images. Bytes are scaled to 0..1.

    Args:
        source: images.
        rows: the images that a run trains on.
    """
    images = (source.image(int(row)) for row in rows[spread(len(rows), SAMPLE)])
    # All images count alike, whatever their size: average the moments of the images.
    scaled = (image / 255 if image.dtype == np.uint8 else image.astype(np.float64) for image in images)
    moments = np.array([(values.mean((0, 1)), np.square(values).mean((0, 1))) for values in scaled])
    mean, square = moments.mean(axis=0)
    return tuple(mean.tolist()), tuple(np.sqrt((square - mean**2).clip(1e-12)).tolist())
