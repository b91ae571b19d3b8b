"""Finds image files whose name in an annotation file is not a path below the image folder.

Windows writes backslashes; Roboflow and others repeat the image folder in the path; Label Studio writes an address;
converters change the suffix.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Collection, Container, Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from backbones.common.datasets import Record, file_of_image, leads_out
from backbones.common.listing import Listing, is_file, list_files
from backbones.common.suffixes import IMAGE_SUFFIXES
from backbones.errors import UserError, counted, first_names, no_folder

LABEL_STUDIO = "/data/local-files/?d="  # before the quoted path of a local file
UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # Label Studio's prefix of the name of an uploaded file


class ImageFinder:
    """The image files in a folder and its subfolders, found by names as annotation files write them.

    A name fits a file if the name is the file's path below the folder. Otherwise, the longest end of the name that is
    the path of a file fits. Otherwise, the files fit whose names without folder and suffix are equal to the given one,
    upper or lower case alike; of several, those in a folder that the name has too. Backslashes, addresses and quoted
    characters (`%20`) are understood.

    Args:
        folder: the folder.
        suffixes: suffixes of the image files, in lower case.

    Attributes:
        renamed: names as in the annotation files, by the files that were found for them, where the two differ.
    """

    def __init__(self, folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> None:
        self.folder, self._suffixes = folder, suffixes
        self.renamed: dict[str, str] = {}

    @cached_property
    def _listing(self) -> Listing:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: {no_folder(self.folder)} of images; check the path")
        return list_files(self.folder, self._suffixes)

    @cached_property
    def files(self) -> dict[str, None]:
        """Paths of the image files below the folder, in order."""
        return {file.relative_to(self.folder).as_posix(): None for file in self._listing.files}

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for file in self.files:
            found.setdefault(_stem(file), []).append(file)
        return found

    @property
    def passed_over(self) -> Mapping[str, int]:
        """Number of the other files by suffix."""
        return self._listing.passed_over

    def find(self, name: str) -> str | None:
        """Return the one file that a name fits, or None. Names that differ from the file's are kept in `renamed`."""
        fitting = self.fitting(name)
        if len(fitting) != 1:
            return None
        if fitting[0] != name:
            self.renamed[fitting[0]] = name
        return fitting[0]

    def fitting(self, name: str) -> list[str]:
        """Return the files that a name fits."""
        if name in self.files:
            return [name]
        for local in dict.fromkeys([_local(name), unquote(_local(name))]):
            parts = [part for part in local.replace("\\", "/").split("/") if part and part not in (".", os.pardir)]
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                if end in self.files:
                    others = [file for file in self._by_stem[_stem(end)] if file.endswith(f"/{end}")]
                    return [end, *others] if start == len(parts) - 1 and len(parts) > 1 else [end]
            stem = _stem(parts[-1]) if parts else ""
            fitting = self._by_stem.get(stem) or self._by_stem.get(UPLOAD.sub("", stem))
            if fitting:
                return _in_folder(parts[:-1], fitting)
        return []

    def describe(self, name: str) -> str:
        """Return how many files a name fits, for messages."""
        fitting = self.fitting(name)
        return f"{counted(len(fitting), 'file')} ({', '.join(fitting[:3])})" if fitting else "no file"


def use_fitting_files(
    images: list[Record], path: Path, folder: Path, *, present: Container[str], allow_outside: bool
) -> dict[str, str]:
    """If an image's file is missing but one file in the folder fits its name, replace `file_name`.

    Args:
        images: records of COCO.
        path: annotation file, for messages.
        folder: of the images.
        present: names of the files in the image folder, without those in sub-folders.

    Returns:
        Names as in the annotation file, by the files that are used for them instead.

    Raises:
        UserError: a name is malformed or leads out of the folder, or a file fits several images.
    """
    owners: dict[str, Record] = {}
    renamed: dict[str, str] = {}
    for image in images:
        name = image.get("file_name")
        if isinstance(name, str) and (name in present or is_file(folder / name)) and not leads_out(name):
            owners[name] = image
    finder = ImageFinder(folder)
    for image in images:
        if owners.get(str(image.get("file_name"))) is None:
            renamed |= _use_fitting_file(image, path, finder, owners, allow_outside=allow_outside)
    return renamed


def renamed_note(renamed: Mapping[str, str]) -> dict[str, int]:
    """Return the number of the names that `use_fitting_files` replaced, by a description with examples."""
    if not renamed:
        return {}
    examples = first_names([f"{name[:80]} -> {file}" for file, name in renamed.items()])
    return {f"file names replaced by those of fitting files ({examples})": len(renamed)}


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
    image: Record, path: Path, finder: ImageFinder, owners: dict[str, Record], *, allow_outside: bool
) -> dict[str, str]:
    name = image.get("file_name")
    fitting = fitting_file(finder, name) if isinstance(name, str) else None
    if fitting is None or not is_foreign(str(name)) or fitting == name:
        try:
            file_of_image(image, path, allow_outside=allow_outside)
        except UserError as error:
            hint = f"; the folder has {fitting}" if fitting is not None and fitting != name else ""
            raise UserError(f"{error}{hint}") from None
        return {}
    if fitting in owners:
        raise UserError(
            f"{path}: images {reprlib.repr(owners[fitting].get('id'))} and "
            f"{reprlib.repr(image.get('id'))} both lead to the file {fitting} ({reprlib.repr(name)}); "
            "fix one `file_name`"
        )
    owners[fitting] = {**image}
    image["file_name"] = fitting
    return {fitting: str(name)}


def _in_folder(folders: list[str], files: list[str]) -> list[str]:
    """Return the files whose folders end with the longest possible end of `folders`; all files if no end fits."""
    for start in range(len(folders)):
        end = f"/{'/'.join(folders[start:])}/"
        found = [file for file in files if f"/{file.rpartition('/')[0]}/".endswith(end)]
        if found:
            return found
    return files


def _local(name: str) -> str:
    """Return the path in an address, or a name unchanged if it is not an address."""
    if name.startswith(LABEL_STUDIO):
        return unquote(name.removeprefix(LABEL_STUDIO))
    if re.match(r"[a-z][a-z0-9+.-]+://", name):
        try:
            parts = urlsplit(name)
        except ValueError:
            return name
        return unquote(parts.query.partition("d=")[2]) if parts.path.endswith("/local-files/") else parts.path
    return name.partition("?")[0] if name.startswith("/data/upload/") else name


def _stem(name: str) -> str:
    """Return the name of a file without folders and without the suffix of an image, in one case."""
    stem, suffix = os.path.splitext(name.rpartition("/")[2])
    return (stem if suffix.lower() in IMAGE_SUFFIXES else stem + suffix).casefold()
