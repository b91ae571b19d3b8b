"""Checks the images and label maps of a segmentation data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backbones.common.datasets import existing_split
from backbones.common.images import decode_image
from backbones.common.listing import describe_passed_over, list_files
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError
from segmentation.data.classes import Classes
from segmentation.data.labels import LabelCode, read_label_pixels, to_class_numbers
from segmentation.data.layout import LABEL_SUFFIXES, LabelLayout, label_splits
from tools.checks.findings import CheckReport, absent_split
from tools.checks.images import DAMAGED, UNDECODABLE, Findings, SplitImages
from tools.checks.label_pixels import LabelPixels


def check_labels(
    root: Path, splits: Sequence[str], report: CheckReport, *, ignore_index: int
) -> dict[str, SplitImages]:
    """Check the class list, and that every image has a label map and every label map an image.

    Args:
        splits: names of the splits; the training split comes first. Absent other splits are only reported.
        ignore_index: number in label maps of pixels that do not count.

    Returns:
        The image files of each split, which are not checked yet. Their label maps are checked together with them.

    Raises:
        UserError: if a split has no images.
    """
    names = label_splits(root)
    absent = [split for split in splits[1:] if existing_split(split, names.__contains__) not in names]
    for split in absent:
        report.add("no such split", split, file=str(root), text=absent_split(names))
    splits = [split for split in splits if split not in absent]
    layouts = [LabelLayout.of(root, split) for split in splits]
    try:
        classes = layouts[0].classes()
    except UserError as error:
        report.add("class list", " and ".join(splits), file=str(root / "classes.txt"), text=str(error))
        classes = None
    code = LabelCode.of(layouts[0].all_label_maps(), classes or Classes.named(()), ignore_index=ignore_index)
    return {
        layout.split: LabelCheck(layout, code, report, trains=index == 0).images()
        for index, layout in enumerate(layouts)
    }


class LabelCheck:
    """Check of the images and label maps of one split.

    Args:
        code: meaning of the pixels; without classes only files and sizes are checked.
        trains: whether the split is for training.
    """

    def __init__(self, layout: LabelLayout, code: LabelCode, report: CheckReport, *, trains: bool) -> None:
        self.layout, self.code, self.report = layout, code, report
        self.pairs = layout.pairs()
        self.pixels = LabelPixels(code.classes.names, len(self.pairs), trains=trains)

    def images(self) -> SplitImages:
        """Report images without a label map and label maps without an image; return the images of the split."""
        names = [str(image.relative_to(self.layout.images)) for image, _ in self.pairs]
        self._report_files(names)
        return SplitImages(
            self.layout.split, self.layout.images, names, [""] * len(names), self._inspect, self._conclude
        )

    def _report_files(self, names: Sequence[str]) -> None:
        layout, report, split = self.layout, self.report, self.layout.split
        report.checked[split] = {"images": len(names)}
        for name, (_, labels) in zip(names, self.pairs, strict=True):
            if labels is None:
                text = f"{layout.labels.relative_to(layout.root)} has no label map of this name"
                report.add("image without label map", split, file=name, text=text)
        if layout.names is None:  # VOC's folders hold the files of all splits
            report_passed_over(layout.images, IMAGE_SUFFIXES, split, report)
            report_passed_over(layout.labels, LABEL_SUFFIXES, split, report)
            used = {labels for _, labels in self.pairs}
            for orphan in list_files(layout.labels, LABEL_SUFFIXES).files:
                if orphan not in used:
                    text = f"{layout.images} has no image of this name"
                    file = str(orphan.relative_to(layout.root))
                    report.add("label map without image", split, file=file, text=text)

    def _inspect(self, index: int, content: np.ndarray) -> Findings:
        sizes = {
            image.shape[:2] for exif in (False, True) if (image := decode_image(content, apply_exif=exif)) is not None
        }
        findings = [] if sizes else [(UNDECODABLE, DAMAGED)]
        path = self.pairs[index][1]
        return findings if path is None else findings + self._inspect_labels(path, sizes)

    def _inspect_labels(self, path: Path, sizes: set[tuple[int, ...]]) -> Findings:
        """Return the problems of one label map; a wrong size and wrong values are separate problems.

        Args:
            sizes: sizes that the label map may have: the image as stored, and rotated by its EXIF orientation.
        """
        try:
            pixels = read_label_pixels(path, self.code)
        except UserError as error:
            return [("unusable label map", without_name(path, error))]
        findings = []
        if sizes and pixels.shape[:2] not in sizes:
            shown = " or ".join(f"{width}x{height}" for height, width in sorted(sizes))
            text = f"the label map has {pixels.shape[1]}x{pixels.shape[0]} pixels; the image has {shown}"
            findings.append(("label map of other size", text))
        try:
            if len(self.code.classes):
                self.pixels.add(to_class_numbers(pixels, path, self.code))
        except UserError as error:
            findings.append(("unknown label", f"the label map {without_name(path, error)}"))
        return findings

    def _conclude(self) -> Findings:
        return self.pixels.problems(self.layout.split, self.report)


def report_passed_over(folder: Path, suffixes: Sequence[str], split: str, report: CheckReport) -> None:
    """Report the number of files in a folder that are not read, because their suffix is not in `suffixes`."""
    others = describe_passed_over(list_files(folder, suffixes).passed_over)
    if others:
        report.add("passed over", split, file=str(folder), text=f"files that are not read: {others}")


def without_name(name: Path | str, error: UserError) -> str:
    """Return an error's text without the file's name, which the report shows separately."""
    return str(error).removeprefix(f"{name}: ")
