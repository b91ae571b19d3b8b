"""Finds and drops the classes of label maps that no pixel has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from segmentation.data.chosen import ChosenLabels
from segmentation.data.classes import IGNORE
from segmentation.data.dataset import LabelSource

CHUNK = 256  # label maps that are read before it is asked whether every class has been seen

LabelMap: TypeAlias = tuple[LabelSource, int]  # a source and a row of it


def classes_in(maps: Iterable[LabelMap]) -> set[int]:
    """Return the numbers of the classes with a pixel in these label maps."""
    found: set[int] = set()
    for source, row in maps:
        found.update(np.unique(source.labels(row, source.size(row))).tolist())
    return found - {IGNORE}


def used_classes(
    sources: Sequence[LabelSource], read: Callable[[Sequence[LabelMap]], set[int]] = classes_in
) -> set[int]:
    """Return the numbers of the classes that have a pixel in any source, and that of a background.

    Label maps are read in a random order, the same in every call, until every class has been seen. So only data with
    an unused class are read to the end.

    Args:
        sources: splits with the same classes.
        read: returns the classes of some label maps; several processes may share the work.

    Raises:
        UserError: a label map cannot be read.
    """
    classes = sources[0].classes
    every = set(range(len(classes)))
    used = every - set(classes.coloured)
    maps = [(source, row) for source in sources for row in range(len(source))]
    order = np.random.default_rng(0).permutation(len(maps)).tolist()
    for start in range(0, len(maps), CHUNK):
        used |= read([maps[place] for place in order[start : start + CHUNK]])
        if used == every:
            break
    return used


def keep_classes(source: LabelSource, kept: Collection[int]) -> LabelSource:
    """Return a source with only these classes, which keep their order; the source itself if it has no other class."""
    names = dict(enumerate(source.classes.names))
    ids = {number: number if number in kept else None for number in names}
    return source if None not in ids.values() else ChosenLabels(source, ids, names, unused=True)
