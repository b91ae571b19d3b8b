"""Checks of data sets without boxes: class folders, and images with label maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from backbones.common.datasets import PIXEL_SUFFIXES
from backbones.common.images import decode_image
from backbones.errors import UserError
from classification.data.decoding import channels_of, decode_raw
from classification.data.folders import image_files
from segmentation.data.folders import image_folder, list_pairs, read_classes
from segmentation.data.labels import Classes, read_label_pixels, to_class_numbers
from tools.checks.findings import CheckReport
from tools.checks.images import DAMAGED, UNDECODABLE, Findings, SplitImages


def check_classes(folders: Mapping[str, Path], report: CheckReport) -> dict[str, SplitImages]:
    """Check the class folders of each split, `SPLIT/CLASS/*`.

    Returns:
        The image files of each split, which are not checked yet.
    """
    names = {split: _class_names(folder) for split, folder in folders.items()}
    for split, own in names.items():
        if not own:
            report.add("no classes", split, file=str(folders[split]), text="the folder has no class folders")
        for other in names.keys() - {split}:
            for name in sorted(own - names[other]):
                text = f"class {name} is not in {folders[other]}"
                report.add("class of one split only", split, file=str(folders[split] / name), text=text)
    return {split: _class_images(folder, sorted(names[split]), split, report) for split, folder in folders.items()}


def check_labels(
    root: Path, splits: Sequence[str], report: CheckReport, *, ignore_index: int
) -> dict[str, SplitImages]:
    """Check the class list, and that each image has a label map and each label map an image.

    Args:
        ignore_index: number in label maps of pixels that do not count.

    Returns:
        The image files of each split, which are not checked yet. Their label maps are checked together with them.

    Raises:
        UserError: if a split has no images.
    """
    try:
        classes = read_classes(root)
    except UserError as error:
        report.add("class list", " and ".join(splits), file=str(root / "classes.txt"), text=str(error))
        classes = None
    return {split: _label_images(root, split, classes, report, ignore_index) for split in splits}


def _class_names(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")}


def _class_images(folder: Path, classes: list[str], split: str, report: CheckReport) -> SplitImages:
    files: list[str] = []
    for name in classes:
        found = sorted(str(path.relative_to(folder)) for path in image_files(folder / name))
        files += found
        if not found:
            text = f"the folder has no image files ({', '.join(PIXEL_SUFFIXES)})"
            report.add("class without images", split, file=str(folder / name), text=text)
    report.checked[split] = {"classes": len(classes), "images": len(files)}

    def inspect(index: int, content: np.ndarray) -> Findings:
        return _inspect_image(content.tobytes(), files[index], _channels(folder / files[0]))

    return SplitImages(split, folder, files, [""] * len(files), inspect)


@cache
def _channels(path: Path) -> int:
    """Return the number of channels that all images must have: that of this image, or 3 if it cannot be decoded."""
    try:
        return channels_of(path)
    except UserError:
        return 3


def _inspect_image(content: bytes, name: str, channels: int) -> Findings:
    try:
        image = decode_raw(content, name)
    except UserError as error:
        return [(UNDECODABLE, _without(name, error))]
    findings = []
    if image.shape[2] != channels:
        findings.append(("other channels", f"the image has {image.shape[2]} channels; the first image has {channels}"))
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        findings.append(("NaN or infinity", "the array contains NaN or infinity"))
    return findings


def _label_images(
    root: Path, split: str, classes: Classes | None, report: CheckReport, ignore_index: int
) -> SplitImages:
    folder, pairs = image_folder(root, split), list_pairs(root, split)
    names = [str(image.relative_to(folder)) for image, _ in pairs]
    report.checked[split] = {"images": len(pairs)}
    for name, (_, labels) in zip(names, pairs, strict=True):
        if not labels.is_file():
            report.add(
                "image without label map",
                split,
                file=name,
                text=f"the label map {labels.relative_to(root)} does not exist",
            )
    for orphan in sorted(set((root / "labels" / split).rglob("*.png")) - {labels for _, labels in pairs}):
        text = f"{folder} has no image of this name"
        report.add("label map without image", split, file=str(orphan.relative_to(root)), text=text)

    def inspect(index: int, content: np.ndarray) -> Findings:
        image = decode_image(content, apply_exif=False)
        size = None if image is None else (image.shape[0], image.shape[1])
        findings = [(UNDECODABLE, DAMAGED)] if image is None else []
        return findings + _inspect_labels(pairs[index][1], classes, size, ignore_index)

    return SplitImages(split, folder, names, [""] * len(names), inspect)


def _inspect_labels(path: Path, classes: Classes | None, size: tuple[int, int] | None, ignore_index: int) -> Findings:
    """Return the problems of a label map's file. A wrong size and wrong class numbers are separate problems."""
    if not path.is_file():
        return []  # reported already
    try:
        pixels = read_label_pixels(path, classes or Classes.named(()))
    except UserError as error:
        return [("undecodable label map", _without(path, error))]
    findings = []
    if size is not None and pixels.shape[:2] != size:
        text = f"the label map has {pixels.shape[1]}x{pixels.shape[0]} pixels; the image has {size[1]}x{size[0]}"
        findings.append(("label map of other size", text))
    try:
        if classes is not None:
            to_class_numbers(pixels, path, classes, ignore_index=ignore_index)
    except UserError as error:
        findings.append(("unknown label", f"the label map {_without(path, error)}"))
    return findings


def _without(name: Path | str, error: UserError) -> str:
    """Return an error's text without the file's name, which the report shows separately."""
    return str(error).removeprefix(f"{name}: ")
