"""Checks whole numbers of any type: those of Python, numpy and one-element tensors."""

from __future__ import annotations

import operator
from typing import cast

from backbones.errors import UserError


def whole_number(name: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """Return a whole number as Python's own type.

    Args:
        name: of the argument, for the message.
        least, most: the range; None has no upper end.

    Raises:
        UserError: the value is no whole number, such as 3.0 or True, or is out of range.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # the error is what is tested
    except TypeError:
        number = None
    inside = number is not None and least <= number and (most is None or number <= most)
    if isinstance(value, bool) or not inside:
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{name}={value!r}: expected a whole number {bounds}")
    return cast(int, number)
