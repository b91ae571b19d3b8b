"""Refuses unknown keywords of public functions with an error that names the keywords that exist."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

from backbones.errors import UserError

P = ParamSpec("P")
Result = TypeVar("Result")


def known_keywords(
    name: str, *, of: Callable[..., object] | None = None
) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Return a decorator that refuses unknown keywords of a function with a `UserError`.

    Args:
        name: the function's name for its users, such as "detection.build".
        of: another function whose keywords exist too, because the function passes its `**options` on to it.
    """

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        parameters = inspect.signature(function).parameters.values()
        known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
        known += [each for each in (inspect.signature(of).parameters if of else ()) if each not in (*known, "name")]

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            _require_known(name, kwargs, known)
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
