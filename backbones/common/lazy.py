"""Import a package's public names on first use, so that importing the package costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

Exports = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]


def lazy(package: str, homes: Mapping[str, Sequence[str]]) -> Exports:
    """Return `__getattr__`, `__dir__` and `__all__` for a package's `__init__.py`.

    Args:
        package: the package's `__name__`.
        homes: module below the package, such as "data.coco", to the public names that it defines.
    """
    modules = {name: f"{package}.{module}" for module, names in homes.items() for name in names}

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return getattr_, lambda: sorted(modules), sorted(modules)
