"""Replaces the file names of COCO's records by those of the files that fit them."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Container
from pathlib import Path

from backbones.common.datasets import Record, file_of_image, leads_out
from backbones.common.image_finder import LABEL_STUDIO, ImageFinder
from backbones.errors import UserError
from detection.data.truth import Truth


def use_fitting_files(truth: Truth, images: list[Record], *, present: Container[str], allow_outside: bool) -> None:
    """If an image's file is missing but one file in the folder fits its name, replace `file_name`, and count the case.

    Args:
        present: names of the files in the image folder, without those in sub-folders.

    Raises:
        UserError: a name is malformed or leads out of the folder, or a file fits several images.
    """
    owners: dict[str, Record] = {}
    for image in images:
        name = image.get("file_name")
        if isinstance(name, str) and (name in present or is_file_in(truth.folder, name)) and not leads_out(name):
            owners[name] = image
    finder = ImageFinder(truth.folder)
    for image in images:
        if owners.get(str(image.get("file_name"))) is not None:
            continue
        _use_fitting_file(truth, image, finder, owners, allow_outside=allow_outside)


def fitting_file(finder: ImageFinder, name: str) -> str | None:
    """Return the one file that a name fits, or None if there is none, or if there are several."""
    fitting = finder.fitting(name) if "\0" not in name else []
    return fitting[0] if len(fitting) == 1 else None


def is_foreign(name: str) -> bool:
    """Return whether a file name may be replaced by that of a fitting file.

    Names that lead out of the folder may not.
    """
    return name.startswith(LABEL_STUDIO) or not leads_out(name.replace("\\", "/"))


def _use_fitting_file(
    truth: Truth, image: Record, finder: ImageFinder, owners: dict[str, Record], *, allow_outside: bool
) -> None:
    name = image.get("file_name")
    fitting = fitting_file(finder, name) if isinstance(name, str) else None
    if fitting is None or not is_foreign(str(name)) or fitting == name:
        try:
            file_of_image(image, truth.path, allow_outside=allow_outside)
        except UserError as error:
            hint = f"; the folder has {fitting}" if fitting is not None and fitting != name else ""
            raise UserError(f"{error}{hint}") from None
        return
    if fitting in owners:
        raise UserError(
            f"{truth.path}: images {reprlib.repr(owners[fitting].get('id'))} and "
            f"{reprlib.repr(image.get('id'))} both lead to the file {fitting} ({reprlib.repr(name)}); "
            "fix one `file_name`"
        )
    owners[fitting] = {**image}
    image["file_name"] = fitting
    truth.renamed[fitting] = str(name)


def is_file_in(folder: Path, name: str) -> bool:
    """Return whether a folder has a file with a name. The result is False for invalid names."""
    try:
        return os.path.isfile(folder / name)
    except (ValueError, OSError):
        return False
