"""Merges, renames and chooses the classes of listed images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from backbones.common.categories import map_ids, new_names
from backbones.common.category_options import CategoryOptions, listed
from backbones.errors import UserError
from classification.data.listing import ClassListing
from classification.data.names import ClassNames

SplitName = TypeVar("SplitName", bound=str)


def choose_classes(
    listings: Mapping[SplitName, ClassListing], options: CategoryOptions
) -> dict[SplitName, ClassListing]:
    """Merge, rename and choose the classes of each split, as the options say.

    Images of classes that are left out are left out as well. If an image may have several classes, it stays and loses
    these classes. Classes of other splits have the names of the training split, from which they may differ in capitals.

    Args:
        listings: the splits by name. The training split comes first. Without it, the options may name classes that the
            splits lack.

    Raises:
        UserError: an option names an unknown class, two classes would have the same name, or no image is left.
    """
    if not options.changes_classes:
        return dict(listings)
    first = next(iter(listings.values()))
    named = [] if "train" in listings else list(dict.fromkeys(_named(options)))
    own = ClassNames.of(named or [*first.names, *first.empty])

    def usual(name: str) -> str:
        label = own.label(name)
        return name if label is None else own.names[label]

    known = [usual(name) for listing in listings.values() for name in (*listing.names, *listing.empty)]
    numbered = dict(enumerate(dict.fromkeys([*known, *named])))
    final, ids = new_names(numbered, options), map_ids(numbered, options, where=first.source)
    targets = {name: None if (new := ids[number]) is None else final[new] for number, name in numbered.items()}
    return {
        split: _with_targets(listing, {name: targets[usual(name)] for name in (*listing.names, *listing.empty)})
        for split, listing in listings.items()
    }


def _named(options: CategoryOptions) -> list[str]:
    """Return the classes of the data that the options name."""
    merged, renamed = options.merges(), options.new_names()
    new = {*merged, *renamed.values()}
    chosen = (*renamed, *listed(options.classes), *listed(options.drop_classes))
    return [*(name for members in merged.values() for name in members), *(name for name in chosen if name not in new)]


def _with_targets(listing: ClassListing, targets: Mapping[str, str | None]) -> ClassListing:
    """Return a listing with other classes.

    Args:
        targets: the new name of each class; None for classes that are left out.
    """
    names = tuple(sorted({new for name in listing.names if (new := targets[name]) is not None}))
    if not names:
        raise UserError(f"{listing.source}: no image has one of the chosen classes; choose others")
    table = np.array([[targets[name] == new for new in names] for name in listing.names], bool)
    if listing.multi_label:
        rows, numbers = np.arange(len(listing.files)), listing.numbers @ table
    else:
        stays = np.array([targets[name] is not None for name in listing.names])
        kept = np.flatnonzero(stays[listing.numbers])
        numbers = table.argmax(1)[listing.numbers[kept]]
        order = np.argsort(numbers, kind="stable")  # images are listed class by class
        rows, numbers = kept[order], numbers[order]
    left = sum(targets[name] is None for name in listing.names)
    lost = len(listing.files) - len(rows)
    text = f"classes left out: {left}" + (f" (images: {lost})" if lost else "")
    return replace(
        listing,
        names=names,
        files=listing.files[rows],
        numbers=numbers,
        empty=tuple(name for name in listing.empty if targets[name] is not None and targets[name] not in names),
        nested=tuple(name for name in listing.nested if targets[name] is not None),
        in_folders=listing.in_folders and all(targets[name] in (name, None) for name in listing.names),
        notes=(*listing.notes, text) if left else listing.notes,
    )
