"""Checks the class folders of a classification data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from backbones.common.datasets import PIXEL_SUFFIXES
from backbones.common.listing import describe_passed_over
from backbones.errors import UserError
from classification.data.decoding import channels_of, decode_raw
from classification.data.folders import ClassListing, list_classes
from tools.checks.findings import CheckReport
from tools.checks.images import UNDECODABLE, Findings, SplitImages
from tools.checks.label_maps import without_name


def check_classes(folders: Mapping[str, Path], report: CheckReport) -> dict[str, SplitImages]:
    """Check the class folders of each split, `SPLIT/CLASS/*`, and report their problems.

    Args:
        folders: folder of each split; the training split comes first.

    Returns:
        The image files of each split, which are not checked yet.

    Raises:
        UserError: a folder has no class folders.
    """
    listings = {split: list_classes(folder) for split, folder in folders.items()}
    train = next(iter(listings.values()))
    for split, listing in listings.items():
        trains = listing is train
        _report_classes(listing, None if trains else train, split, report)
        report.checked[split] = {"classes": len(listing.names), "images": len(listing.files)}
        if others := describe_passed_over(listing.passed_over):
            report.add("passed over", split, file=str(listing.root), text=f"files that are not read: {others}")
    return {split: _class_images(listing, split) for split, listing in listings.items()}


def _report_classes(listing: ClassListing, train: ClassListing | None, split: str, report: CheckReport) -> None:
    """Report classes that lack images in one of the splits, and class folders that hold only folders.

    Args:
        train: the training split; None if `listing` is that split.
    """

    def add(kind: str, names: Iterable[str], text: str) -> None:
        for name in names:
            report.add(kind, split, file=str(listing.root / name), text=text)

    empty = f"the folder has no image files ({', '.join(PIXEL_SUFFIXES)})"
    add("class without images" if train else "class without training images", listing.empty, empty)
    add("class of folders only", listing.nested, "all its images lie in folders below, which may be the classes")
    if train is not None:
        known = {*train.names, *train.empty}
        add("class without training images", sorted(set(listing.names) - known), f"the class is not in {train.root}")
        absent = sorted(set(train.names) - {*listing.names, *listing.empty})
        add("class without images", absent, f"the class of {train.root} has no folder here")
    elif len(listing.names) < 2:
        report.add("single class", split, file=str(listing.root), text="only one class has images")


def _class_images(listing: ClassListing, split: str) -> SplitImages:
    folder, files = listing.root, [os.fsdecode(file) for file in listing.files.tolist()]

    def inspect(index: int, content: np.ndarray) -> Findings:
        return _inspect_image(content.tobytes(), files[index], _channels(folder / files[0]))

    return SplitImages(split, folder, files, [""] * len(files), inspect)


@cache
def _channels(path: Path) -> int:
    """Return the number of channels of an image, 3 if it cannot be decoded. All other images must have as many."""
    try:
        return channels_of(path)
    except UserError:
        return 3


def _inspect_image(content: bytes, name: str, channels: int) -> Findings:
    try:
        image = decode_raw(content, name)
    except UserError as error:
        return [(UNDECODABLE, without_name(name, error))]
    findings = []
    if image.shape[2] != channels:
        findings.append(("other channels", f"the image has {image.shape[2]} channels; the first image has {channels}"))
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        findings.append(("NaN or infinity", "the array contains NaN or infinity"))
    return findings
