"""Refuses unknown keywords of public functions with an error that names the keywords that exist."""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import wraps
from math import isfinite
from typing import Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from backbones.errors import UserError

WORDS = {bool: "true or false", int: "a whole number", float: "a number"}
P = ParamSpec("P")
Result = TypeVar("Result")


def known_keywords(
    name: str, *, of: Callable[..., object] | None = None, typed: bool = False
) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Return a decorator that refuses unknown keywords of a function with a `UserError`.

    Args:
        name: the function's name for its users, such as "detection.build".
        of: another function whose keywords exist too, because the function passes its `**options` on to it.
        typed: whether to refuse values that are not of the numbers and flags of the function's annotations.
    """

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        parameters = inspect.signature(function).parameters.values()
        known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
        known += [each for each in (inspect.signature(of).parameters if of else ()) if each not in (*known, "name")]

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            _require_known(name, kwargs, known)
            if typed:
                _require_numbers(kwargs, get_type_hints(function))
            return function(*args, **kwargs)

        return call

    return decorate


def _require_known(name: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Check the names of keywords.

    Raises:
        UserError: naming the first unknown keyword and all that exist.
    """
    unknown = next((word for word in given if word not in known), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{name}: unknown keyword {unknown!r}; {hint}its keywords are {', '.join(known)}")


def _require_numbers(given: Mapping[str, object], hints: Mapping[str, Any]) -> None:
    """Check the keywords that are flags, numbers or lists of numbers.

    Raises:
        UserError: naming the first value that is something else.
    """
    for name, value in given.items():
        kinds = [kind for kind in (get_args(hints[name]) or (hints[name],)) if kind is not type(None)]
        if len(kinds) != 1 or value is None:
            continue
        (kind,) = kinds
        (item,) = get_args(kind) if get_origin(kind) is Sequence else (None,)
        if item in WORDS:
            # Not an iterator, which would be empty afterwards.
            fits = isinstance(value, Collection) and all(_is_number(each, item) for each in value)
        else:
            fits = kind not in WORDS or _is_number(value, kind)
        if not fits:
            expected = "a list of numbers" if item in WORDS else WORDS[kind]
            raise UserError(f"{name}={value!r}: expected {expected}")


def _is_number(value: Any, kind: type) -> bool:
    """Return whether a value, such as NumPy's numbers, can be used as a bool, an int or a finite float."""
    if isinstance(value, str):
        return False
    try:
        return isfinite(operator.index(value) if kind is int else float(value))
    except (TypeError, ValueError, OverflowError):
        return False
