"""Counts the pixels of each class in the label maps of a split, and finds what only all label maps together show."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from segmentation.data.classes import IGNORE
from segmentation.data.statistics import MOSTLY, LabelStatistics
from tools.checks.findings import CheckReport
from tools.checks.images import Findings


class LabelPixels:
    """Numbers of pixels of each class.

    Args:
        names: names of the classes.
        maps: number of label maps of the split.
        trains: whether the split is for training.
    """

    def __init__(self, names: Sequence[str], maps: int, *, trains: bool) -> None:
        self.names, self.maps, self.trains = tuple(names), maps, trains
        self.counts, self.read = np.zeros(IGNORE + 1, np.int64), 0
        self.lock = threading.Lock()

    def add(self, labels: np.ndarray) -> None:
        """Count the pixels of a label map `[H, W]` uint8."""
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
        with self.lock:  # several threads inspect
            self.counts += counts
            self.read += 1

    def problems(self, split: str, report: CheckReport) -> Findings:
        """Return the problems of all label maps, such as an absent class; report the fraction of each class."""
        found = LabelStatistics(
            self.names, self.counts[: len(self.names)], int(self.counts[IGNORE]), self.read, maps=self.maps
        )
        if not found.read:
            return []
        labelled = max(1, int(found.pixels.sum()))
        fractions = zip(self.names, found.pixels.tolist(), strict=True)
        report.per_class[split] = {name: count / labelled for name, count in fractions}
        if found.useless:
            return [("nothing to learn or measure", found.useless)]
        kind = "class without training pixels" if self.trains else "class without pixels"
        problems = [(kind, f"no label map has a pixel of {name}") for name in found.absent]
        if found.ignored_fraction > MOSTLY:
            problems.append(("mostly ignored", f"{found.ignored_fraction:.0%} of all pixels are ignored"))
        return problems
