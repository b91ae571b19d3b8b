"""Unites items that are connected, directly or through others (union-find)."""

from __future__ import annotations

import numpy as np


class Unions:
    """Sets of connected items 0..size-1. At first each item is alone."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def connect(self, one: int, other: int) -> None:
        """Unite the sets of two items."""
        one, other = self._root(one), self._root(other)
        self._parents[max(one, other)] = min(one, other)

    def groups(self) -> np.ndarray:
        """Return for each item the smallest item of its set `[size]`."""
        return np.array([self._root(item) for item in range(len(self._parents))], np.int64)

    def _root(self, item: int) -> int:
        parents = self._parents
        while parents[item] != item:
            parents[item] = parents[parents[item]]  # shorten the path for the next call
            item = parents[item]
        return item
