"""Reads the YAML file of a YOLO data set: where the images of each split lie, and the names of the classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from backbones.common.datasets import Record
from backbones.common.listing import is_file
from backbones.common.values import is_text
from backbones.errors import UserError, counted, first_names
from detection.data.truth import checked_names, read_text

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
SUFFIXES = (".yaml", ".yml")
SPLITS = ("train", "val", "test")
MOST_CLASSES = 100_000  # a larger number in `names` is a mistake
PLACES = ("datasets", "../datasets", "..")  # folders beside the YAML file in which Ultralytics' tools keep `path`


@dataclass(frozen=True)
class DataYaml:
    """The YAML file of a data set.

    Attributes:
        path: the file.
        notes: descriptions of the entries that do not lead to a folder and were replaced.
    """

    path: Path
    notes: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> DataYaml | None:
        """Return the YAML file of a data set, which is `root` itself or a file in it; None if there is none."""
        if root.suffix.lower() in SUFFIXES and root.is_file():
            return cls(root)
        named = [root / name for name in NAMES]
        return next((cls(path) for path in named if path.is_file()), None)

    @cached_property
    def content(self) -> Record:
        """The mapping in the file.

        Raises:
            UserError: the file cannot be read, or is not YAML.
        """
        return read_yaml_mapping(self.path)

    @property
    def splits(self) -> list[str]:
        """Names of the splits that the file names and that exist."""
        return [name for name in SPLITS if self._entries(name) and self.existing(name)]

    def existing(self, split: str) -> list[Path]:
        """Return the folders or lists of images of a split that exist."""
        return [place for entry in self._entries(split) if (place := self._place(entry)) is not None]

    def require(self, split: str) -> list[Path]:
        """Return the folders or lists of images of a split; [] if the file does not name the split.

        Raises:
            UserError: one of them does not exist.
        """
        entries = self._entries(split)
        for entry in entries:
            if self._place(entry) is None:
                raise UserError(
                    f"{self.path}: `{split}: {entry[:200]}` leads to no folder or list; fix `{split}` or `path`"
                )
        return self.existing(split)

    def names(self) -> list[str]:
        """Return the class names: a list, or a mapping from the numbers 0, 1, ... to names.

        Raises:
            UserError: `names` is malformed, or does not agree with `nc`.
        """
        names = self.content.get("names")
        if isinstance(names, dict):
            numbered = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
            self._refuse_gap(numbered)
            if sorted(numbered, key=str) == sorted(range(len(names)), key=str):
                names = [numbered[number] for number in range(len(names))]
        if not isinstance(names, list) or not all(_is_title(name) for name in names):
            raise UserError(
                f"{self.path}: `names` is neither a list of class names nor a mapping from 0, 1, ...; fix `names`"
            )
        count = self.content.get("nc", len(names))
        if count != len(names):
            raise UserError(
                f"{self.path}: `nc` is {str(count)[:40]}, but `names` lists {counted(len(names), 'class')}; fix "
                "one of the two entries"
            )
        return checked_names(self.path, [str(name) for name in names])

    def _refuse_gap(self, numbered: Mapping[Any, object]) -> None:
        """Refuse a mapping from numbers to names in which a number is missing.

        Raises:
            UserError: naming the missing numbers.
        """
        known = [number for number in numbered if isinstance(number, int) and 0 <= number < MOST_CLASSES]
        gaps = [str(number) for number in range(max(known, default=-1)) if number not in numbered]
        if gaps and len(known) == len(numbered):
            raise UserError(
                f"{self.path}: `names` has no name for class {first_names(gaps)}, but one for class {max(known)}; add "
                "the missing names"
            )

    def keypoints(self) -> int:
        """Return how many keypoint values follow the box on each line of a pose data set; 0 for other data sets.

        The number follows from `kpt_shape`: [17, 3] means 17 points with x, y and visibility.

        Raises:
            UserError: `kpt_shape` is malformed.
        """
        shape = self.content.get("kpt_shape")
        if shape is None:
            return 0
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
            raise UserError(
                f"{self.path}: `kpt_shape` is {str(shape)[:40]}; write [number of points, values per point], such as "
                "[17, 3]"
            )
        return int(shape[0] * shape[1])

    def _entries(self, split: str) -> list[str]:
        value = self.content.get(split)
        listed = value if isinstance(value, list) else [value]
        return [entry for entry in listed if isinstance(entry, str) and entry.strip() and "\0" not in entry]

    def _place(self, entry: str) -> Path | None:
        """Return the folder or list that an entry leads to; None if there is none."""
        entry = entry.strip().replace("\\", "/")
        if os.path.isabs(entry) and _exists(Path(entry)):
            return Path(entry)
        parts = [part for part in entry.split("/") if part not in ("", ".")]
        # Roboflow writes ../valid/images for the folder valid beside the file.
        inside = [part for part in parts if part != os.pardir]
        for base, is_declared in [] if os.path.isabs(entry) else self._bases():
            found = next((place for ends in (inside, parts) if _exists(place := base.joinpath(*ends))), None)
            if found is not None:
                if not is_declared:
                    self.notes[f"`path` of {self.path.name} replaced by the folder of the file"] = None
                return _plain(found)
        return self._end(parts, entry)

    def _bases(self) -> Iterator[tuple[Path, bool]]:
        """Yield the folders to which entries may be relative, and whether the file says so."""
        home, declared = self.path.parent, self.content.get("path")
        if not isinstance(declared, str) or not declared.strip() or "\0" in declared:
            yield home, True
            return
        yield home / declared.strip(), True
        yield home, False
        for place in () if os.path.isabs(declared) else PLACES:
            yield home / place / declared.strip(), True

    def _end(self, parts: list[str], entry: str) -> Path | None:
        """Return the longest end of a path of another machine that exists beside the file, with at least two parts."""
        for start in range(1, len(parts) - 1):
            place = self.path.parent.joinpath(*parts[start:])
            if os.pardir not in parts[start:] and _exists(place):
                self.notes[f"path {entry[:80]} of {self.path.name} replaced by {'/'.join(parts[start:])}"] = None
                return place
        return None


def is_data_yaml(path: Path) -> bool:
    """Return whether a YAML file lists class names. A file that cannot be read counts, so that the error names it."""
    try:
        return "names" in read_yaml_mapping(path)
    except UserError:
        return True


def read_yaml_mapping(path: Path) -> Record:
    """Return the content of a YAML file, or {} if the content is not a mapping.

    Raises:
        UserError: the file cannot be read, or is not YAML.
    """
    return parse_yaml_mapping(read_text(path), path)


def parse_yaml_mapping(text: str, path: Path) -> Record:
    """Parse YAML text of a file as `read_yaml_mapping` does."""
    try:
        data = yaml.load(text, Loader=_Loader)
    except Exception as error:  # PyYAML raises many types, such as an IndexError for `!!int`
        raise UserError(
            f"{path}: is not valid YAML ({' '.join(str(error).split()) or type(error).__name__}); fix the file"
        ) from None
    return {str(key): value for key, value in data.items()} if isinstance(data, Mapping) else {}


class _Loader(yaml.SafeLoader):
    """Loader without aliases, with which a short file can stand for terabytes."""

    def compose_node(self, parent: object, index: object) -> yaml.Node:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError(f"uses the alias *{self.peek_event().anchor}; write the value out")
        return super().compose_node(parent, index)


def _exists(path: Path) -> bool:
    return os.path.isdir(path) or (path.suffix.lower() == ".txt" and is_file(path))


def _plain(path: Path) -> Path:
    """Return a path without `..`. Other links in the path are kept."""
    return path.resolve() if os.pardir in path.parts else path


def _is_title(value: object) -> bool:
    """Return whether a value can be a class name."""
    return (is_text(value) and bool(value)) or (isinstance(value, int) and not isinstance(value, bool))
