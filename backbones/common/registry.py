"""A registry maps names to builders and is filled by a decorator.

This module imports neither torch nor other libraries.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from backbones.errors import UserError

Builder = TypeVar("Builder", bound=Callable[..., object])
_Registered = TypeVar("_Registered", bound=Callable[..., object])


class Registry(Generic[Builder]):
    """Maps names to builders of one kind, in the order of their registration.

        NECKS: Registry[NeckBuilder] = Registry("neck")

        @NECKS.register("fpn")
        def build_fpn(...): ...

        NECKS["fpn"](...)

    Args:
        kind: a noun for error messages, such as "backbone" or "neck".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._builders: dict[str, Builder] = {}

    def register(self, name: str) -> Callable[[_Registered], _Registered]:
        """Return a decorator that stores a function or class under `name` and returns it unchanged.

        Raises:
            ValueError: the name is not a non-empty string, or it is already registered.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{self.kind} name {name!r}: expected a non-empty string")
        self._refuse_duplicate(name)

        def add(builder: _Registered) -> _Registered:
            self._refuse_duplicate(name)
            self._builders[name] = builder  # type: ignore[assignment]  # the contract is the registry's, not the type's
            return builder

        return add

    def names(self) -> list[str]:
        """Return all registered names in the order of their registration."""
        return list(self._builders)

    def __contains__(self, name: object) -> bool:
        return name in self._builders

    def __getitem__(self, name: str) -> Builder:
        """Return the builder of a name.

        Raises:
            UserError: the name is unknown. The message suggests at most five similar names.
        """
        if name not in self._builders:
            raise unknown_name(self.kind, name, self._builders)
        return self._builders[name]

    def _refuse_duplicate(self, name: str) -> None:
        if name in self._builders:
            taken = self._builders[name]
            where = f"{taken.__module__}.{getattr(taken, '__qualname__', type(taken).__name__)}"
            raise ValueError(f"{self.kind} {name!r} is registered already, by {where}")


def unknown_name(kind: str, name: object, known: Iterable[str], *, otherwise: str = "") -> UserError:
    """Return the error for a name that is not registered.

    Args:
        kind: a noun, such as "backbone".
        known: all registered names; the message suggests at most five that are similar to `name`.
        otherwise: what the message says if no name is similar. By default it lists at most five known names.
    """
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=5, cutoff=0.5)
    if near:
        hint = f"did you mean {', '.join(near)}?"
    else:
        hint = otherwise or f"known names are {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    return UserError(f"unknown {kind} {name!r}: {hint}")
