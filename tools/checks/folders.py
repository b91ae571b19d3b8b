"""Checks of data sets that are folders: of classes, or of images beside their label maps."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np

from backbones.common.images import decode_image
from backbones.errors import UserError
from classification.data.folders import SUFFIXES, channels_of, decode_raw, image_files
from segmentation.data.folders import image_folder, list_pairs, read_classes
from segmentation.data.labels import Classes, read_pixels, to_numbers
from tools.checks.findings import Report
from tools.checks.images import DAMAGED, UNDECODABLE, Findings, Images


def check_classes(folders: dict[str, Path], report: Report) -> dict[str, Images]:
    """Check the class folders of each split, `SPLIT/CLASS/*`.

    Returns:
        The image files of each split, which are not looked at yet.
    """
    names = {split: _class_names(folder) for split, folder in folders.items()}
    for split, own in names.items():
        if not own:
            report.add("no classes", split, file=str(folders[split]), text="has no class folders")
        for other in names.keys() - {split}:
            for name in sorted(own - names[other]):
                text = f"class {name} is not in {folders[other]}"
                report.add("class of one split only", split, file=str(folders[split] / name), text=text)
    return {split: _class_images(folder, sorted(names[split]), split, report) for split, folder in folders.items()}


def check_labels(root: Path, splits: list[str], report: Report, *, ignore_index: int) -> dict[str, Images]:
    """Check the class list, and that there is a label map for each image and the reverse.

    Returns:
        The image files of each split, which are not looked at yet; their label maps are looked at with them.

    Raises:
        UserError: where a split has no images.
    """
    try:
        classes = read_classes(root)
    except UserError as error:
        report.add("class list", " and ".join(splits), file=str(root / "classes.txt"), text=str(error))
        classes = None
    return {split: _label_images(root, split, classes, report, ignore_index) for split in splits}


def _class_names(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")}


def _class_images(folder: Path, classes: list[str], split: str, report: Report) -> Images:
    files: list[str] = []
    for name in classes:
        found = sorted(str(path.relative_to(folder)) for path in image_files(folder / name))
        files += found
        if not found:
            text = f"holds no images ({', '.join(SUFFIXES)})"
            report.add("class without images", split, file=str(folder / name), text=text)
    report.checked[split] = {"classes": len(classes), "images": len(files)}

    def inspect(place: int, content: np.ndarray) -> Findings:
        return _inspect_image(content.tobytes(), files[place], _channels(folder / files[0]))

    return Images(split, folder, files, [""] * len(files), inspect)


@cache
def _channels(path: Path) -> int:
    """What other images are compared with; three where the file is none itself."""
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
        findings.append(("other channels", f"{image.shape[2]} channels, where the first image has {channels}"))
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        findings.append(("NaN or infinity", "an array of numbers that are none"))
    return findings


def _label_images(root: Path, split: str, classes: Classes | None, report: Report, ignore_index: int) -> Images:
    folder, pairs = image_folder(root, split), list_pairs(root, split)
    names = [str(image.relative_to(folder)) for image, _ in pairs]
    report.checked[split] = {"images": len(pairs)}
    for name, (_, labels) in zip(names, pairs, strict=True):
        if not labels.is_file():
            report.add("image without label map", split, file=name, text=f"no {labels.relative_to(root)}")
    for orphan in sorted(set((root / "labels" / split).rglob("*.png")) - {labels for _, labels in pairs}):
        report.add("label map without image", split, file=str(orphan.relative_to(root)), text=f"none in {folder}")

    def inspect(place: int, content: np.ndarray) -> Findings:
        image = decode_image(content, apply_exif=False)
        size = None if image is None else (image.shape[0], image.shape[1])
        findings = [(UNDECODABLE, DAMAGED)] if image is None else []
        return findings + _inspect_labels(pairs[place][1], classes, size, ignore_index)

    return Images(split, folder, names, [""] * len(names), inspect)


def _inspect_labels(path: Path, classes: Classes | None, size: tuple[int, int] | None, ignore_index: int) -> Findings:
    """What is wrong with a label map, its size and its values apart."""
    if not path.is_file():
        return []  # noted before
    try:
        pixels = read_pixels(path, classes or Classes.named(()))
    except UserError as error:
        return [("undecodable label map", _without(path, error))]
    findings = []
    if size is not None and pixels.shape[:2] != size:
        there = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
        findings.append(("label map of other size", f"the label map is {there}, the image {size[1]}x{size[0]}"))
    try:
        if classes is not None:
            to_numbers(pixels, path, classes, ignore_index=ignore_index)
    except UserError as error:
        findings.append(("unknown label", f"the label map {_without(path, error)}"))
    return findings


def _without(name: Path | str, error: UserError) -> str:
    """An error's text without the file's name, which the report has beside it."""
    return str(error).removeprefix(f"{name}: ")
