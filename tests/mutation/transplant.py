"""Puts the code of a changed module into the imported one, so that all who hold its functions run the change."""

from __future__ import annotations

import ast
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any


def transplant(module: ModuleType, tree: ast.Module) -> None:
    """Run a changed tree of a module beside it, and copy what differs into the functions, classes and values it has."""
    name = module.__name__
    twin = ModuleType(name)
    twin.__dict__.update(__file__=module.__file__, __package__=module.__package__, __spec__=module.__spec__)
    sys.modules[name] = twin  # dataclasses look their module up
    try:
        exec(compile(tree, str(module.__file__), "exec"), twin.__dict__)
    finally:
        sys.modules[name] = module
    for key, value in vars(twin).items():
        old = vars(module).get(key)
        if not key.startswith("__") and not _copied(old, value, name):
            _rebind(key, old, value)


def _rebind(key: str, old: object, value: object) -> None:
    """Give a value of the module its changed form, also in the modules that imported it by name."""
    for other in list(sys.modules.values()):
        if isinstance(other, ModuleType) and vars(other).get(key, other) is old:
            setattr(other, key, value)


def _copied(old: Any, new: Any, module: str) -> bool:
    """Copy code and defaults of a function, or of all functions of a class; return False for any other value."""
    old, new = _function(old), _function(new)
    if isinstance(new, FunctionType) and isinstance(old, FunctionType):
        if new.__module__ == module and isinstance(new.__code__, CodeType):
            old.__code__ = new.__code__
            old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__
        return True
    if isinstance(new, type) and isinstance(old, type):
        for key, value in vars(new).items() if new.__module__ == module else ():
            if not key.startswith("__") or isinstance(value, FunctionType):
                before = vars(old).get(key)
                if not _copied(before, value, module) and _is_plain(value) and value != before:
                    setattr(old, key, value)
        return True
    return isinstance(new, ModuleType) or type(new).__module__ == "typing"


def _function(value: Any) -> Any:
    """Return the function within a property, a class method, a static method or a decorated function."""
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    return value


def _is_plain(value: object) -> bool:
    return isinstance(value, (bool, int, float, str, tuple, type(None)))
