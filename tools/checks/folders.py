"""Checks of class folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from backbones.common.datasets import PIXEL_SUFFIXES
from backbones.errors import UserError
from classification.data.decoding import channels_of, decode_raw
from classification.data.folders import image_files
from tools.checks.findings import CheckReport
from tools.checks.images import UNDECODABLE, Findings, SplitImages
from tools.checks.label_maps import without_name


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
        return [(UNDECODABLE, without_name(name, error))]
    findings = []
    if image.shape[2] != channels:
        findings.append(("other channels", f"the image has {image.shape[2]} channels; the first image has {channels}"))
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        findings.append(("NaN or infinity", "the array contains NaN or infinity"))
    return findings
