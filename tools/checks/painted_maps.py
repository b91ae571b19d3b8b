"""Checks the label maps that outlines and strokes of LabelMe and Label Studio give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backbones.common.images import decode_image
from backbones.errors import UserError
from segmentation.data.folders import PaintedReader, has_split, split_names
from segmentation.data.painted import PaintedLabels
from tools.checks.findings import CheckReport, absent_split
from tools.checks.images import DAMAGED, UNDECODABLE, Findings, SplitImages
from tools.checks.label_pixels import LabelPixels

UNUSABLE = "unusable label map"


def check_painted(
    root: Path, splits: Sequence[str], report: CheckReport, read: PaintedReader
) -> dict[str, SplitImages]:
    """Paint the label map of every image, and compare it with the image.

    Args:
        splits: names of the splits; the training split comes first. A validation split may be absent.
        read: opens a split.

    Returns:
        The image files of each split, which are not checked yet. Their label maps are checked together with them.
    """
    found = {}
    for index, split in enumerate(splits):
        if index and not has_split(root, split):
            report.add("no such split", split, file=str(root), text=absent_split(split_names(root)))
            continue
        try:
            source = read(root, split, bits=None)
        except UserError as error:
            report.add("malformed annotation", split, file=str(root), text=str(error))
            continue
        found[split] = PaintedCheck(root, source, split, report, trains=index == 0).images()
    return found


class PaintedCheck:
    """Check of the images and outlines of one split.

    Args:
        root: folder of the data set.
        trains: whether the split is for training.
    """

    def __init__(self, root: Path, source: PaintedLabels, split: str, report: CheckReport, *, trains: bool) -> None:
        self.root, self.source, self.split, self.report = root, source, split, report
        self.pixels = LabelPixels(source.classes.names, len(source), trains=trains)

    def images(self) -> SplitImages:
        """Report the notes of reading; return the images of the split."""
        names = [str(self.source.file(row).relative_to(self.root)) for row in range(len(self.source))]
        self.report.checked[self.split] = {"images": len(names)}
        for note, count in self.source.notes.items():
            self.report.add("note", self.split, file=self.source.where, text=f"{note}: {count}")
        return SplitImages(self.split, self.root, names, [""] * len(names), self._inspect, self._conclude)

    def _inspect(self, index: int, content: np.ndarray) -> Findings:
        image = decode_image(content, apply_exif=True)
        if image is None:
            return [(UNDECODABLE, DAMAGED)]
        size = (image.shape[0], image.shape[1])
        try:
            given = self.source.size(index)
            self.pixels.add(self.source.labels(index, given))
        except UserError as error:
            return [(UNUSABLE, str(error))]
        if given == size:
            return []
        text = f"the outlines are those of {given[1]}x{given[0]} pixels; the image has {size[1]}x{size[0]}"
        return [("label map of other size", text)]

    def _conclude(self) -> Findings:
        return self.pixels.problems(self.split, self.report)
