"""Divides items into parts of given sizes that show each class in the same proportion, and keeps groups together.

The algorithm is iterative stratification (Sechidis et al. 2011, "On the Stratification of Multi-Label Data",
algorithm 1), extended to groups of items: the class with the fewest items left is distributed first, and each group
goes to the part that lacks the most items of this class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALWAYS_TRAINED = -1  # number of the part of items that no fold validates


@dataclass(frozen=True)
class ItemClasses:
    """The classes that each of N items shows, such as the classes of an image's boxes.

    Attributes:
        items: index of the item of each occurrence `[M]`, 0..N-1.
        classes: class of each occurrence `[M]`, 0..count-1. An item may show a class several times, or none at all.
        count: number of classes.
    """

    items: np.ndarray
    classes: np.ndarray
    count: int


def divide(
    names: Sequence[str],
    shown: ItemClasses,
    *,
    fractions: Sequence[float],
    groups: np.ndarray | None = None,
    seed: int = 0,
    folds: bool = False,
) -> np.ndarray:
    """Divide items into parts; return the number of each item's part `[N]`.

    Items without a class are stratified like a class of their own. Whatever part is left out for validation, the other
    parts together show every class: a group that alone shows some class belongs to part 0, or, with `folds`, to no part
    (`ALWAYS_TRAINED`). The result depends on names, classes, groups and seed only, not on the order of the items.

    Args:
        names: name of each item. Items of the same name are in one group.
        shown: the classes of the items.
        fractions: size of each part as a fraction of all items.
        groups: group of each item `[N]`; None for a group per name.
        seed: seed of the choice between parts and groups that are equally good.
        folds: whether each part in turn is left out for validation. Otherwise only the last part is.
    """
    tables = _Tables.of(names, shown, groups, seed)
    fixed = ALWAYS_TRAINED if folds else 0
    parts = np.full(len(tables.sizes), -2)
    parts[tables.sole_groups()] = fixed
    _distribute(tables, parts, np.asarray(fractions, np.float64), whole=not folds)
    for part in range(len(fractions)) if folds else [len(fractions) - 1]:
        _return_lost_classes(tables, parts, part, fixed)
    return parts[tables.group_of_item]


@dataclass(frozen=True)
class _Tables:
    """Number of items by group and label, in sparse form. Labels are the classes, and one for items without a class.

    Attributes:
        group_of_item: `[N]`.
        sizes: number of items of each group `[G]`.
        keys: pseudo-random number of each group `[G]`, which depends on its first name and the seed.
        offsets: `[G + 1]`; the labels of group g are `labels[offsets[g]:offsets[g + 1]]`.
        labels: `[P]`.
        counts: number of items `[P]` of the group that show the label.
        count: number of labels.
    """

    group_of_item: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    count: int

    @classmethod
    def of(cls, names: Sequence[str], shown: ItemClasses, groups: np.ndarray | None, seed: int) -> _Tables:
        first, group_of_item = _ordered_groups(names, groups)
        sizes = np.bincount(group_of_item, minlength=len(first))
        # Give items without a class a label of their own, and count the items of each group by label.
        empty = np.setdiff1d(np.arange(len(names)), shown.items)
        items = np.concatenate([shown.items, empty]).astype(np.int64)
        labels = np.concatenate([shown.classes, np.full(len(empty), shown.count)]).astype(np.int64)
        pairs = np.unique(np.stack([items, labels]), axis=1)
        keys = group_of_item[pairs[0]] * (shown.count + 1) + pairs[1]
        cells, counts = np.unique(keys, return_counts=True)
        owners, labels = np.divmod(cells, shown.count + 1)
        offsets = np.searchsorted(owners, np.arange(len(first) + 1))
        numbers = np.array([_key(name, seed) for name in first], np.uint64)
        return cls(group_of_item, sizes, numbers, offsets, labels, counts, shown.count + 1)

    def row(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of a group, and the number of its items that show each of them."""
        part = slice(self.offsets[group], self.offsets[group + 1])
        return self.labels[part], self.counts[part]

    @property
    def owners(self) -> np.ndarray:
        """Group of each entry of `labels` `[P]`."""
        return np.repeat(np.arange(len(self.sizes)), np.diff(self.offsets))

    def sole_groups(self) -> np.ndarray:
        """Return the groups that alone show some class. Items without a class are no class."""
        number = np.bincount(self.labels, minlength=self.count)
        number[-1] = 0
        return np.unique(self.owners[number[self.labels] == 1])


def _ordered_groups(names: Sequence[str], groups: np.ndarray | None) -> tuple[list[str], np.ndarray]:
    """Return the first name of each group, in order of these names, and the index of each item's group `[N]`."""
    _, same_name = np.unique(np.asarray(names), return_inverse=True)
    keys = same_name if groups is None else np.asarray(groups)
    first: dict[int, str] = {}
    for key, name in zip(keys.tolist(), names, strict=True):
        first[key] = min(name, first.get(key, name))
    ordered = sorted(first, key=lambda key: first[key])
    index = {key: place for place, key in enumerate(ordered)}
    return [first[key] for key in ordered], np.array([index[key] for key in keys.tolist()], np.int64)


def _key(name: str, seed: int) -> int:
    text = f"{seed}\0{name}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _distribute(tables: _Tables, parts: np.ndarray, fractions: np.ndarray, *, whole: bool) -> None:
    """Assign the groups that have no part yet; write their parts into `parts` `[G]`.

    Args:
        whole: whether groups that have a part count as items of part 0. Otherwise they belong to no part.
    """
    waiting = parts == -2
    owners, order = tables.owners, np.lexsort((tables.keys, -tables.sizes))
    left = np.bincount(tables.labels[waiting[owners]], tables.counts[waiting[owners]], tables.count)
    # Number of items of each label and of all labels that each part still lacks.
    given = np.bincount(tables.labels, tables.counts, tables.count) - left
    wanted = fractions[:, None] * (left + given if whole else left)
    sizes = fractions * tables.sizes[waiting if not whole else slice(None)].sum()
    if whole:
        wanted[0] -= given
        sizes[0] -= tables.sizes[~waiting].sum()
    # List the groups of each label: those with the most items first, and then in pseudo-random order.
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    by_label = np.lexsort((rank[owners], -tables.counts, tables.labels))
    starts = np.searchsorted(tables.labels[by_label], np.arange(tables.count + 1))
    while left.any():
        label = int(np.argmin(np.where(left > 0, left, np.inf)))
        for group in owners[by_label[starts[label] : starts[label + 1]]].tolist():
            if not waiting[group]:
                continue
            part = _neediest(wanted[:, label], sizes, int(tables.keys[group]))
            labels, counts = tables.row(group)
            parts[group], waiting[group] = part, False
            wanted[part, labels] -= counts
            sizes[part] -= tables.sizes[group]
            left[labels] -= counts


def _neediest(wanted: np.ndarray, sizes: np.ndarray, key: int) -> int:
    """Return the part that lacks the most items of a label; among equal parts, the one that lacks the most items."""
    best = np.flatnonzero(wanted == wanted.max())
    best = best[sizes[best] == sizes[best].max()]
    return int(best[key % len(best)])


def _return_lost_classes(tables: _Tables, parts: np.ndarray, part: int, fixed: int) -> None:
    """Move groups out of a part if it has all groups of some class, so that the class is trained on as well."""
    owners = tables.owners
    for label in range(tables.count - 1):
        groups = owners[tables.labels == label]
        if len(groups) and (parts[groups] == part).all():
            moved = groups[np.lexsort((tables.keys[groups], tables.sizes[groups]))[0]]
            parts[moved] = fixed
