"""Checks the image records of a split: ids, file names and sizes."""

from __future__ import annotations

import numpy as np

from backbones.common.datasets import SIZES_READ, Record, files_in, records_of, refuse_absent_files, refuse_duplicates
from backbones.common.datasets import field as require_field
from backbones.common.image_finder import use_fitting_files
from backbones.common.images import complete_size
from backbones.errors import UserError
from detection.data.truth import Truth, unknown_size


def checked_images(truth: Truth, absent_images: str, allow_outside: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids `[I]`, file names `[I]` and sizes `[I, 2]` (height, width) of the images, in the order of ids.

    Raises:
        UserError: there is no image, a field is malformed, an id is a duplicate, or a file or folder is missing.
    """
    path, folder = truth.path, truth.folder
    images = sorted(records_of(truth.data, "images", path), key=lambda image: require_field(image, "image", "id", path))
    if not images:
        raise UserError(f"{path}: `images` is empty; name a file with images")
    image_ids = np.array([image["id"] for image in images], dtype=np.int64)
    refuse_duplicates(image_ids.tolist(), "image id", path)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder, but {path} needs it as its image folder; fix the option that names the folder"
        )
    present = files_in(folder)
    truth.renamed.update(use_fitting_files(images, path, folder, present=present, allow_outside=allow_outside))
    names = np.array([image["file_name"] for image in images])
    if absent_images == "error":
        refuse_absent_files(names.tolist(), folder, path, present=present)
    for image in images:
        _complete_size(truth, image, absent_images)
    sizes = [[require_field(image, "image", side, path) for side in ("height", "width")] for image in images]
    return image_ids, names, np.array(sizes, np.int32)


def _complete_size(truth: Truth, image: Record, absent_images: str) -> None:
    """If an image's record has no width or no height, read the image's size from its file, and count the case."""
    try:
        completed = complete_size(image, truth.folder)
    except UserError:
        if absent_images == "error":
            raise
        image["height"], image["width"] = unknown_size()
        completed = True
    if completed:
        truth.notes[SIZES_READ] += 1
