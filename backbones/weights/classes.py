"""Orders the classes of a loaded head: a weights file may have the classes of the data in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def rows_by_name(known: Sequence[str] | None, wanted: Sequence[str]) -> list[int] | None:
    """Return for each wanted class its number in a file, if the file has the same classes in another order.

    Args:
        known: names of the file's classes by number; None if unknown.
        wanted: names of the model's classes by number.

    Returns:
        The numbers `[K]`; None if the classes or their order do not differ in this way, or if a name is not unique.
    """
    if known is None or list(known) == list(wanted) or sorted(known) != sorted(wanted):
        return None
    return [known.index(name) for name in wanted] if len(set(wanted)) == len(wanted) else None


def reorder_classes(head: Mapping[str, Tensor], larger: Mapping[str, Tensor], rows: Sequence[int]) -> bool:
    """Give the classes of a head a new order, in place.

    Args:
        head: the head's entries by name.
        larger: the entries of the same head with one more class; their shapes tell which dimensions are classes.
        rows: present number of each class, in the new order `[K]`.

    Returns:
        Whether the head was changed. A head with dimensions that are multiples of the number of classes is not.
    """
    changes = [
        (value, dim)
        for name, value in head.items()
        for dim, (here, there) in enumerate(zip(value.shape, larger[name].shape, strict=True))
        if here != there
    ]
    if not changes or any(value.shape[dim] != len(rows) for value, dim in changes):
        return False
    with torch.no_grad():
        for value, dim in changes:
            value.copy_(value.index_select(dim, torch.tensor(rows, device=value.device)))
    return True


def describe_moved(wanted: Sequence[str], rows: Sequence[int]) -> tuple[str, ...]:
    """Return a text for each class that has another number in the file than in the model."""
    pairs = zip(wanted, rows, strict=True)
    return tuple(f"{name}: {before} -> {now}" for now, (name, before) in enumerate(pairs) if before != now)
