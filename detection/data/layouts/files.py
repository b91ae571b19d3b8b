"""Base of the layouts that keep all annotations of a split in one file: CVAT, Label Studio, VIA, CSV files, COCO."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path

from backbones.common.image_finder import ImageFinder
from backbones.common.listing import files_of
from backbones.errors import UserError, first_names
from detection.data.layouts.base import Reading
from detection.data.layouts.images import SPLIT_WORDS, UNSPLIT, folders_of_splits, image_folder
from detection.data.layouts.joined import read_and_join
from detection.data.layouts.places import Place, PlacedLayout
from detection.data.truth import Truth

_WORD = re.compile(rf"(?:^|[^a-z])({'|'.join(SPLIT_WORDS)})(?:\d{{4}})?(?:$|[^a-z])")


def split_word(path: Path) -> str | None:
    """Return the word in a file's name that names a split, such as "val"; None if there is no such word."""
    match = _WORD.search(path.stem.lower())
    return match[1] if match else None


class FileLayout(PlacedLayout):
    """A layout whose splits each have one annotation file.

    The file lies in the folder of the data set or of a split, or in its subfolder `annotations`. A split
    has the name of its folder, or the word in the file's name such as `val`. A single file without such a word is
    `train`. So are several files without such a word, and the files in the folder of a split are one split, if the tool
    writes the images of a data set into several files.

    Attributes:
        suffixes: suffixes of the annotation files.
        joins: whether several files may be one split.
    """

    suffixes: tuple[str, ...]
    joins = False

    def __init__(self) -> None:
        self._classes: dict[Path, list[str]] = {}
        self._finders: dict[Path, ImageFinder] = {}

    @abstractmethod
    def reads(self, path: Path) -> bool:
        """Return whether a file has this format, from the beginning of the file."""

    @abstractmethod
    def read_file(self, path: Path, images: Path, how: Reading, *, others: list[Path]) -> Truth:
        """Read an annotation file.

        Args:
            path: the file.
            images: folder of the images.
            others: annotation files of the other splits, which may name further classes.

        Raises:
            UserError: the file cannot be read, or `how.on_problem` raises the error of a record.
        """

    def classes_in(self, path: Path) -> list[str]:
        """Return the class names that a file uses or declares. Layouts whose files are joined override this."""
        return []

    def classes_of_each(self, paths: Iterable[Path]) -> list[list[str]]:
        """Return the class names of each file, which is read once even if many files ask for those of all others."""
        listed = list(paths)
        for path in listed:
            if path not in self._classes:
                self._classes[path] = self.classes_in(path)
        return [self._classes[path] for path in listed]

    def images_in(self, folder: Path) -> ImageFinder:
        """Return the image files of a folder, which is listed once for all annotation files."""
        return self._finders.setdefault(folder, ImageFinder(folder))

    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        path, images = places[split]
        files = [file for place, _ in places.values() for file in self.files_at(place)]

        def read(own: Path) -> Truth:
            return self.read_file(own, images, how, others=[file for file in files if file != own])

        return read_and_join(self.files_at(path), read, how)

    def files_at(self, path: Path) -> list[Path]:
        """Return the annotation files of a place: `path`, or the files in it."""
        return self._readable(path) if path.is_dir() else [path]

    def places(self, root: Path) -> dict[str, Place]:
        """Return annotation file and image folder of each split.

        Raises:
            UserError: it is not clear which files belong to which splits.
        """
        found = {}
        for folder in folders_of_splits(root):
            own = self._readable(folder) or self._readable(folder / "annotations")
            if len(own) > 1 and not self.joins:
                raise UserError(f"--data {root}: {folder.name} {_several(own)}, or keep one of them in the folder")
            if own:
                found[folder.name] = own[0] if len(own) == 1 else own[0].parent, image_folder(folder)
        if found:
            return found
        for folder in (root, root / "annotations"):
            if own := self._readable(folder):
                return self._by_name(root, own)
        return {}

    def _readable(self, folder: Path) -> list[Path]:
        return [path for suffix in self.suffixes for path in files_of(folder, suffix) if self.reads(path)]

    def _by_name(self, root: Path, files: list[Path]) -> dict[str, Place]:
        """Return the files of the splits by the words in the files' names."""
        words = {path: split_word(path) for path in files}
        if len(files) == 1 and words[files[0]] is None:
            return {UNSPLIT: (files[0], image_folder(root))}
        if self.joins and not any(words.values()):
            return {UNSPLIT: (files[0].parent, image_folder(root))}
        if None in words.values() or len(set(words.values())) < len(files):
            raise UserError(f"--data {root}: {_several(files)}, or put `train` and `val` into their names")
        return {word: (path, image_folder(root, f"images/{word}", word)) for path, word in words.items() if word}


def _several(files: list[Path]) -> str:
    names = first_names([path.name for path in files])
    return f"has several annotation files ({names}); name one with --annotations and --images"
