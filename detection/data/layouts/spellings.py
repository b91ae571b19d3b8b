"""Unites the class names of several splits that differ in capitals only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def spellings_of(splits: Iterable[Collection[str]]) -> dict[str, str]:
    """Return the name to use for each spelling that is to be replaced.

    Names that differ in capitals only are one class, unless a split uses two of them. The one in small letters, which
    is the last one in the order of characters, is used.

    Args:
        splits: class names that each split uses.
    """
    groups: dict[str, set[str]] = {}
    apart = set()
    for names in splits:
        own: dict[str, str] = {}
        for name in names:
            plain = name.casefold()
            if own.setdefault(plain, name) != name:
                apart.add(plain)
            groups.setdefault(plain, set()).add(name)
    united = (names for plain, names in groups.items() if plain not in apart)
    return {name: max(names) for names in united for name in names if name != max(names)}


def note_of(name: str, spellings: Mapping[str, str]) -> str:
    """Return the description of an object whose class is spelled in another way than in another split."""
    return f"names of classes that differ in capitals between splits ({name} -> {spellings[name]})"
