"""Merges, renames and chooses the classes of label maps while they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from backbones.common.categories import map_ids, new_names
from backbones.common.category_options import CategoryOptions
from backbones.errors import UserError, first_names
from segmentation.data.classes import IGNORE, Classes
from segmentation.data.dataset import LabelSource


class ChosenLabels:
    """Images of a source with other classes. Implements `LabelSource`.

    Classes are merged first, then renamed, then chosen. A background class, which is class 0, always stays. Pixels of
    classes that are left out become background; without a background class they are ignored.

    Args:
        source: the images and their label maps.
        ids: new number of each class, from the old numbers; None for classes that are left out.
        names: names by new number.
        unused: whether the classes that are left out have no pixel, for the notes.

    Raises:
        UserError: fewer than two classes are left.
    """

    def __init__(
        self, source: LabelSource, ids: Mapping[int, int | None], names: Mapping[int, str], *, unused: bool = False
    ) -> None:
        self._source = source
        before, ids = source.classes, dict(ids)
        has_background = 0 not in before.coloured
        if has_background and ids[0] is None:
            ids[0] = 0
        kept = sorted({number for number in ids.values() if number is not None})
        if len(kept) < 2:
            raise UserError(f"{source.where}: fewer than two classes are left ({names[kept[0]]}); choose more classes")
        self.classes = Classes(
            tuple(names[number] for number in kept),
            tuple(before.colours[number] for number in kept),
            given=before.given,
            void=before.void,
        )
        self.where, self.passed_over, self.in_channels = source.where, source.passed_over, source.in_channels
        left_out = [number for number, new in ids.items() if new is None]
        note = f"classes left out as {'background' if has_background else 'ignored pixels'}"
        if unused:
            note = f"unused classes dropped ({first_names([before.names[number] for number in left_out])})"
        self.notes: Mapping[str, int] = {**source.notes, **({note: len(left_out)} if left_out else {})}
        self._table = np.full(IGNORE + 1, IGNORE, np.uint8)
        for number, new in ids.items():
            if new is not None:
                self._table[number] = kept.index(new)
            elif has_background:
                self._table[number] = kept.index(0)

    @classmethod
    def of(cls, source: LabelSource, options: CategoryOptions) -> ChosenLabels:
        """Return a source with the classes that the options choose.

        Raises:
            UserError: an option names a class that the source does not have, or fewer than two classes are left.
        """
        names = dict(enumerate(source.classes.names))
        return cls(source, map_ids(names, options, where=source.where), new_names(names, options))

    def __len__(self) -> int:
        return len(self._source)

    def image(self, row: int) -> np.ndarray:
        return self._source.image(row)

    def size(self, row: int) -> tuple[int, int]:
        return self._source.size(row)

    def labels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        return self._table[self._source.labels(row, size)]

    def file(self, row: int) -> Path:
        return self._source.file(row)
