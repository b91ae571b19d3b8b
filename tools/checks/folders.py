"""Checks the classes and images of a classification data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from backbones.common.datasets import existing_split
from backbones.common.decoding import channels_of, decode_raw
from backbones.common.listing import describe_passed_over
from backbones.common.spellings import other_spellings
from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.errors import UserError
from classification.data.layouts import read_split
from classification.data.listing import ClassListing, NoSplitError
from classification.data.reading import Reading
from tools.checks.findings import CheckReport, unequal
from tools.checks.images import UNDECODABLE, Findings, SplitImages
from tools.checks.label_maps import without_name


def list_splits(root: Path, splits: Sequence[str], reading: Reading) -> dict[str, ClassListing]:
    """List the images of the splits with their classes; splits that do not exist are left out.

    Raises:
        UserError: the layout is unknown, none of the splits exists, or a file is malformed.
    """
    found: dict[str, ClassListing] = {}
    error = None
    for split in splits:
        name = existing_split(split, lambda name: (root / name).is_dir())
        try:
            found[name] = read_split(root, split, reading)
        except NoSplitError as missing:
            error = error or missing
    if not found and error is not None:
        raise error
    several = any(listing.multi_label for listing in found.values())
    return {split: listing.as_multi_label() if several else listing for split, listing in found.items()}


def check_classes(listings: Mapping[str, ClassListing], report: CheckReport) -> dict[str, SplitImages]:
    """Check the classes of each split, and report their problems and numbers of images.

    Args:
        listings: images of each split with their classes; the training split comes first.

    Returns:
        The image files of each split, which are not checked yet.
    """
    train = next(iter(listings.values()))
    for split, listing in listings.items():
        trains = listing is train
        _report_classes(listing, None if trains else train, split, report)
        report.checked[split] = {"classes": len(listing.names), "images": len(listing.files)}
        _report_counts(listing, split, report)
        if others := describe_passed_over(listing.passed_over):
            report.add("passed over", split, file=str(listing.root), text=f"files that are not read: {others}")
        for note in listing.notes:
            report.add("note", split, file=listing.source, text=note)
    return {split: _class_images(listing, split) for split, listing in listings.items()}


def _report_counts(listing: ClassListing, split: str, report: CheckReport) -> None:
    """Report the number of images of each class, how unequal the numbers are, and how many classes an image has."""
    counts = {name: count for name, count in listing.counts().items() if count}
    report.per_class[split] = {name: int(count) for name, count in counts.items()}
    if text := unequal(counts, "images"):
        report.add("unequal classes", split, file=listing.source, text=f"{text}; see --class-weights and --sampling")
    if listing.multi_label:
        sizes = listing.numbers.sum(1)
        text = f"{sizes.mean():.2f} classes an image, {sizes.min()} to {sizes.max()}; {(sizes == 0).sum()} have none"
        report.add("several classes", split, file=listing.source, text=text)


def _report_classes(listing: ClassListing, train: ClassListing | None, split: str, report: CheckReport) -> None:
    """Report classes that lack images in one of the splits, and class folders that hold only folders.

    Args:
        train: the training split; None if `listing` is that split.
    """

    def add(kind: str, names: Iterable[str], text: str) -> None:
        for name in names:
            file = str(listing.root / name) if listing.in_folders else listing.source
            report.add(kind, split, record="" if listing.in_folders else f"class {name}", file=file, text=text)

    empty = f"the folder has no image files ({', '.join(PIXEL_SUFFIXES)})"
    add("class without images" if train else "class without training images", listing.empty, empty)
    add("class of folders only", listing.nested, "all its images lie in folders below, which may be the classes")
    if train is not None:
        known, here = {*train.names, *train.empty}, {*listing.names, *listing.empty}
        respelled = sorted(name for name in here if len(other_spellings(name, known)) == 1)
        strange = sorted(name for name in set(listing.names) - known if name not in respelled)
        add("class without training images", strange, f"the class is not in {train.source}")
        add("other capitals", respelled, f"the class has other capitals in {train.source}; it is the same class")
        absent = sorted(name for name in set(train.names) - here if not other_spellings(name, here))
        add("class without images", absent, f"the class of {train.source} has no images here")
    elif len(listing.names) < 2:
        report.add("single class", split, file=listing.source, text="only one class has images")


def _class_images(listing: ClassListing, split: str) -> SplitImages:
    folder, files = listing.root, [os.fsdecode(file) for file in listing.files.tolist()]
    channels = cache(lambda: _channels(folder / files[0]))

    def inspect(index: int, content: np.ndarray) -> Findings:
        return _inspect_image(content.tobytes(), files[index], channels())

    return SplitImages(split, folder, files, [""] * len(files), inspect)


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
