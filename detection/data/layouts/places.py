"""Base of the layouts that have an annotation file, or a folder of annotation files, for each split."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

from detection.data.layouts.base import Layout, Reading, Sign
from detection.data.layouts.images import has_images_below, require_split
from detection.data.truth import Truth

Place = tuple[Path, Path]  # annotation file or folder of annotation files, and folder of the images


class PlacedLayout(Layout):
    """A layout that finds the annotations and the images of each split.

    Attributes:
        file: description of the annotations, for messages.
    """

    file: str

    @abstractmethod
    def places(self, root: Path) -> Mapping[str, Place]:
        """Return annotations and image folder of each split, {} for a folder of another layout.

        Raises:
            UserError: it is not clear which files belong to which splits.
        """

    @abstractmethod
    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        """Read a split.

        Args:
            places: annotations and image folder of all splits; those of other splits may name further classes.

        Raises:
            UserError: the annotations cannot be read, or `how.on_problem` raises the error of a record.
        """

    def signs(self, root: Path) -> Iterator[Sign]:
        places = self.places(root)
        yield self.file, bool(places)
        yield "images", any(has_images_below(images) for _, images in places.values())

    def splits(self, root: Path) -> list[str]:
        return sorted(self.places(root))

    def read(self, root: Path, split: str, how: Reading) -> Truth:
        places = self.places(root)
        require_split(split, sorted(places), root)
        return self.read_place(root, split, places, how)
