"""Finds the image files of a folder by names as people and tools write them: relative, bare, or without suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from backbones.common.image_finder import ImageFinder
from backbones.common.listing import list_files
from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.errors import UserError, shortened


class ImageIndex:
    """Index of the image files below a folder.

    Args:
        root: the folder.
        prefer: names of folders; among several fitting files, one in such a folder is used.
    """

    def __init__(self, root: Path, *, prefer: Sequence[str] = ()) -> None:
        self.root, self.prefer = root, frozenset(map(str.lower, prefer))
        self.respelled = 0  # names found that differ from their files in capitals
        self._finder = ImageFinder(root, PIXEL_SUFFIXES)

    def find(self, name: str, *, where: str) -> str | None:
        """Return the path, relative to the folder, of the file that a name means; None if there is none.

        A name is a path below the folder, or the end of one; its suffix may be missing. If no file has the name, the
        file whose name differs in capitals only is meant. The path of another machine means the one file that its end
        or its name fits.

        Args:
            where: what names the file, for the message.

        Raises:
            UserError: several files fit.
        """
        path = PurePosixPath(name)
        if path.suffix.lower() in PIXEL_SUFFIXES and os.path.isfile(self.root / name):
            return path.as_posix()
        found = [file for file in self._by_name.get(path.name, ()) if _ends_with(file, path)]
        respelled = not found
        if respelled:
            plain = PurePosixPath(name.casefold())
            found = [file for file in self._by_plain_name.get(plain.name, ()) if _ends_with(_plain(file), plain)]
        chosen = [file for file in found if self.prefer.intersection(map(str.lower, file.parts[:-1]))]
        found = chosen if len(found) > 1 and chosen else found
        if len(found) > 1:
            raise UserError(
                f"{where}: {shortened(name)} may be {found[0]} or {found[1]}; write the path from {self.root} on"
            )
        self.respelled += respelled and bool(found)
        return found[0].as_posix() if found else self._of_another_machine(name)

    @property
    def renamed(self) -> dict[str, str]:
        """Names with folders of another machine, by the files that were found for them."""
        return self._finder.renamed

    def _of_another_machine(self, name: str) -> str | None:
        """Return the file that a path means whose first folder does not exist here; None if none or several fit."""
        first, *below = name.split("/")
        return self._finder.find(name) if below and not (first and os.path.isdir(self.root / first)) else None

    @cached_property
    def _by_name(self) -> dict[str, list[PurePosixPath]]:
        """The files by their names with and without suffix."""
        names: dict[str, list[PurePosixPath]] = {}
        for file in list_files(self.root, PIXEL_SUFFIXES).files:
            path = PurePosixPath(file.relative_to(self.root).as_posix())
            for name in (path.name, path.stem):
                names.setdefault(name, []).append(path)
        return names

    @cached_property
    def _by_plain_name(self) -> dict[str, list[PurePosixPath]]:
        """The files by their names without capitals, with and without suffix."""
        names: dict[str, list[PurePosixPath]] = {}
        for name, files in self._by_name.items():
            names.setdefault(name.casefold(), []).extend(files)
        return names


def _plain(path: PurePosixPath) -> PurePosixPath:
    """Return a path without capitals."""
    return PurePosixPath(path.as_posix().casefold())


def _ends_with(file: PurePosixPath, path: PurePosixPath) -> bool:
    """Return whether a file's path ends with another path, whose suffix may be missing."""
    count = len(path.parts)
    ends = (file.parts, file.with_suffix("").parts)
    return any(end[-count:] == path.parts for end in ends)
