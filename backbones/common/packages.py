"""Imports optional packages; names the extra that installs an absent one."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from backbones.errors import UserError


def optional(name: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        name: module to import.
        extra: extra of this distribution that installs the package.

    Raises:
        UserError: the package is not installed.
    """
    if find_spec(name.partition(".")[0]) is None:
        raise UserError(f"{name}: is not installed; pip install 'resnet-transfer[{extra}]' installs it")
    return import_module(name)
