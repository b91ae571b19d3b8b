"""Holds a split for the writers of label maps: its images, their label maps, and their names in the new layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np

from backbones.common.images import image_size
from backbones.common.suffixes import PIXEL_SUFFIXES
from backbones.errors import UserError
from segmentation.data.classes import Classes
from segmentation.data.dataset import LabelSource

Lost: TypeAlias = set[str]  # what the new layout cannot hold


@dataclass(frozen=True)
class WrittenImage:
    """An image of a split.

    Attributes:
        row: index in the source.
        name: path of the image in the folder of the split's images.
    """

    source: LabelSource
    row: int
    name: str

    @property
    def file(self) -> Path:
        """The image file."""
        return self.source.file(self.row)

    @property
    def stem(self) -> str:
        """The name without suffix."""
        return os.path.splitext(self.name)[0]

    def labels(self) -> np.ndarray:
        """Return the label map `[H, W]` uint8."""
        return self.source.labels(self.row, self.source.size(self.row))

    def upright_size(self) -> tuple[int, int]:
        """Return height and width, which layouts of outlines need to be those after EXIF rotation.

        Raises:
            UserError: the label map has another size, or the file is no image.
        """
        size, upright = self.source.size(self.row), image_size(self.file, apply_exif=True)
        if size != upright:
            raise UserError(
                f"{self.file}: is {upright[1]}x{upright[0]} pixels after EXIF rotation, but its label map is "
                f"{size[1]}x{size[0]}, which the new layout cannot hold; rotate the image for good"
            )
        return size


@dataclass(frozen=True)
class Writing:
    """A split to write.

    Attributes:
        folder: folder of the new data set.
        split: name of the split in the new data set.
        source: the images and their label maps.
    """

    folder: Path
    split: str
    source: LabelSource

    @property
    def classes(self) -> Classes:
        """The classes of the data set."""
        return self.source.classes

    @property
    def where(self) -> str:
        """Name of the data for messages."""
        return self.source.where

    @property
    def has_background(self) -> bool:
        """Whether class 0 is a background."""
        return 0 not in self.classes.coloured

    def images(self) -> Iterator[WrittenImage]:
        """Yield the images.

        Raises:
            UserError: two images would have the same label map, or a name cannot be listed in a text file.
        """
        for row, name in enumerate(self._names):
            yield WrittenImage(self.source, row, name)

    @cached_property
    def _names(self) -> list[str]:
        files = [self.source.file(row) for row in range(len(self.source))]
        common = Path(os.path.commonpath([file.parent for file in files]))
        names = [file.relative_to(common).as_posix() for file in files]
        owners: dict[str, str] = {}
        for name in names:
            stem = os.path.splitext(name)[0]
            if stem in owners:
                raise UserError(
                    f"{self.where}: images {owners[stem]} and {name} would have the same label map; rename one of them"
                )
            if not stem.isprintable() or stem != stem.strip() or not name.lower().endswith(PIXEL_SUFFIXES):
                raise UserError(f"{self.where}: image {name!r}: this name cannot be listed in a text file; rename it")
            owners[stem] = name
        return names


Writer: TypeAlias = Callable[[Writing], Lost]
