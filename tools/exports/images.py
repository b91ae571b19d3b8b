"""Selects the real images on which an exported file is compared with PyTorch: a user's folder or the run's data."""

from __future__ import annotations

import os
from pathlib import Path

from backbones.common.listing import list_files
from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.errors import UserError, counted, no_folder
from backbones.trained import TrainedFile, find, options_of
from detection.data.folders import read_annotations
from detection.options import DetectionDataOptions
from tools.exports.options import LEAST_CHECKED, ExportOptions
from tools.synthetic import crops, shapes

LABEL_FOLDERS = {"labels", "masks"}


def image_folder(options: ExportOptions) -> Path:
    """Return the folder of real images: `--images`, or else the data of the run, which may be the built-in shapes.

    Raises:
        UserError: the folder does not exist, or the run's data cannot be read.
    """
    if options.images:
        folder = Path(options.images)
        if not folder.is_dir():
            raise UserError(f"--images {folder}: {no_folder(folder)}; check the path")
        return folder
    trained = find(options.run)
    named = (trained.config.get(name) for name in ("val_images", "images", "data"))
    data = next((str(each) for each in named if each is not None), None)
    if data is None:
        return (crops if trained.task == "classification" else shapes).prepare()
    if os.path.isfile(data):  # a CSV file, or YOLO's YAML file
        return _folder_of_file(Path(data), trained)
    if not os.path.isdir(data):
        raise UserError(f"{options.run}: its data, {data}, is not here; name a folder of real images with --images")
    return Path(data)


def _folder_of_file(data: Path, trained: TrainedFile) -> Path:
    """Return the folder of the images that a file lists, which a run has as its data."""
    if trained.task != "detection":
        return data.parent
    options = options_of(DetectionDataOptions, {"model": trained.config})
    divided = any(trained.config.get(name) is not None for name in ("val_fraction", "folds"))
    return read_annotations(options, "train" if divided else "val").folder


def image_files(folder: Path, count: int) -> list[Path]:
    """Return up to `count` images, spread evenly over all images in a folder and its sub-folders.

    If the folder has a validation or test split of enough images, only that split is used.

    Raises:
        UserError: there are fewer than five images.
    """
    # The folders above the data may have any names.
    parts = {path: path.relative_to(folder).parts for path in list_files(folder, PIXEL_SUFFIXES).files}
    found = [path for path, names in parts.items() if not LABEL_FOLDERS & set(names)]
    held_out = [path for path in found if any(part.startswith(("val", "test")) for part in parts[path])]
    found = held_out if len(held_out) >= LEAST_CHECKED else found
    if len(found) < LEAST_CHECKED:
        raise UserError(
            f"--images {folder}: holds {counted(len(found), 'image')}, but the check of an exported file needs at "
            f"least {LEAST_CHECKED} real images; name another folder with --images"
        )
    step = max(1, len(found) // count)
    return found[::step][:count]
