"""Finds and unites class names that differ in capitals only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def spellings_of(splits: Iterable[Collection[str]], given: Collection[str] = ()) -> dict[str, str]:
    """Return the name to use for each spelling that is to be replaced.

    Names that differ in capitals only are one class, unless a split uses two of them, or the list of classes names
    two. The spelling of the list is used, or else the one in small letters, which is the last one in the order of
    characters.

    Args:
        splits: class names that each split uses.
        given: list of the classes, if the data have one.
    """
    groups: dict[str, set[str]] = {}
    apart = set()
    for names in (*splits, given):
        own: dict[str, str] = {}
        for name in names:
            plain = name.casefold()
            if own.setdefault(plain, name) != name:
                apart.add(plain)
            groups.setdefault(plain, set()).add(name)
    chosen = {name.casefold(): name for name in given}
    united = {plain: names for plain, names in groups.items() if plain not in apart}
    targets = {plain: chosen.get(plain) or max(names) for plain, names in united.items()}
    return {name: targets[plain] for plain, names in united.items() for name in names if name != targets[plain]}


def other_spellings(name: str, known: Collection[str]) -> list[str]:
    """Return the known names from which a name differs in capitals only; [] for a name that is known itself."""
    return [] if name in known else [each for each in known if each.casefold() == name.casefold()]


def note_of(name: str, spellings: Mapping[str, str]) -> str:
    """Return the description of an object whose class is spelled in another way than elsewhere."""
    return f"names of classes that differ in capitals ({name} -> {spellings[name]})"
