"""Selects the real images on which an exported file is compared with PyTorch: a user's folder or the run's data."""

from __future__ import annotations

from pathlib import Path

from backbones.common.listing import list_files
from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.errors import UserError, counted
from backbones.trained import find
from tools.exports.options import LEAST_CHECKED, ExportOptions
from tools.synthetic import crops, shapes

LABEL_FOLDERS = {"labels", "masks"}


def image_folder(options: ExportOptions) -> Path:
    """Return the folder of real images: `--images`, or else the data of the run, which may be the built-in shapes.

    Raises:
        UserError: the folder does not exist.
    """
    if options.images:
        folder = Path(options.images)
        if not folder.is_dir():
            raise UserError(f"--images {folder}: no such folder; check the path")
        return folder
    trained = find(options.run)
    data = trained.config.get("data")
    if data is None and trained.config.get("val_images"):
        data = trained.config["val_images"]
    if data is None:
        return (crops if trained.task == "classification" else shapes).prepare()
    if not Path(data).is_dir():
        raise UserError(f"{options.run}: its data, {data}, is not here; name a folder of real images with --images")
    return Path(data)


def image_files(folder: Path, count: int) -> list[Path]:
    """Return up to `count` images, spread evenly over all images in a folder and its sub-folders.

    If the folder has a validation or test split, only that split is used.

    Raises:
        UserError: there are fewer than five images.
    """
    found = [path for path in list_files(folder, PIXEL_SUFFIXES).files if not LABEL_FOLDERS & set(path.parts)]
    held_out = [path for path in found if any(part.startswith(("val", "test")) for part in path.parts)]
    found = held_out or found
    if len(found) < LEAST_CHECKED:
        raise UserError(
            f"--images {folder}: holds {counted(len(found), 'image')}, but the check of an exported file needs at "
            f"least {LEAST_CHECKED} real images; name another folder with --images"
        )
    step = max(1, len(found) // count)
    return found[::step][:count]
