"""Lazy exports of a package: its modules are imported only when one of its public names is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

Exports = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]


def lazy(package: str, modules: Mapping[str, Sequence[str]]) -> Exports:
    """Return `__getattr__`, `__dir__` and `__all__` for a package's `__init__.py`.

    Args:
        package: the package's `__name__`.
        modules: module below the package, such as "data.coco" -> the public names that it defines.
    """
    homes = {name: f"{package}.{module}" for module, names in modules.items() for name in names}

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return getattr_, lambda: sorted(homes), sorted(homes)
