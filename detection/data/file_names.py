"""Finds image files whose `file_name` is not a path below the image folder.

Windows writes backslashes; Roboflow and others repeat the image folder in the path; Label Studio writes an address.
"""

from __future__ import annotations

import os
import reprlib
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from backbones.common.datasets import Record, file_of_image, leads_out
from backbones.errors import UserError
from detection.data.truth import Truth

LABEL_STUDIO = "/data/local-files/?d="  # before the quoted path of a local file


def use_fitting_files(truth: Truth, images: list[Record], *, allow_outside: bool) -> None:
    """If an image's file is missing but one file in the folder fits its name, replace `file_name`, and count the case.

    Raises:
        UserError: a name is malformed or leads out of the folder, or a file fits several images.
    """
    present = {entry.name for entry in os.scandir(truth.folder) if entry.is_file()}
    owners: dict[str, Record] = {}
    for image in images:
        name = image.get("file_name")
        if isinstance(name, str) and (name in present or is_file_in(truth.folder, name)) and not leads_out(name):
            owners[name] = image
    for image in images:
        if owners.get(str(image.get("file_name"))) is not None:
            continue
        _use_fitting_file(truth, image, owners, allow_outside=allow_outside)


def fitting_file(folder: Path, name: str) -> str | None:
    """Return the longest end of a path that is the name of a file in a folder, or None if there is none."""
    path = PurePosixPath(_local(name).replace("\\", "/"))
    parts = [part for part in path.parts if part not in ("/", os.pardir) and not part.endswith(":")]
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if is_file_in(folder, end)), None)


def is_foreign(name: str) -> bool:
    """Return whether a file name may be replaced by that of a fitting file.

    Names that lead out of the folder may not.
    """
    return name.startswith(LABEL_STUDIO) or not leads_out(name.replace("\\", "/"))


def _use_fitting_file(truth: Truth, image: Record, owners: dict[str, Record], *, allow_outside: bool) -> None:
    name = image.get("file_name")
    fitting = fitting_file(truth.folder, name) if isinstance(name, str) and "\0" not in name else None
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
    truth.notes["file names replaced by those of fitting files"] += 1


def _local(name: str) -> str:
    return unquote(name.removeprefix(LABEL_STUDIO)) if name.startswith(LABEL_STUDIO) else name


def is_file_in(folder: Path, name: str) -> bool:
    """Return whether a folder has a file with a name. The result is False for invalid names."""
    try:
        return os.path.isfile(folder / name)
    except (ValueError, OSError):
        return False
