"""Lists of augmentation steps in YAML files, and the transforms of albumentations by name.

- HorizontalFlip: {p: 0.5}
- GaussianBlur
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backbones.common.files import JsonObject, read_yaml
from backbones.common.registry import unknown_name
from backbones.errors import UserError, first_line

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import looks for a newer version on the network

SUFFIXES = (".yaml", ".yml")

Listed = tuple[str, JsonObject]  # name and parameters of a step


def is_file(preset: str) -> bool:
    """Return whether the value of `--augment` is a YAML file and not the name of a preset."""
    return preset.lower().endswith(SUFFIXES)


def read_steps(path: Path) -> list[Listed]:
    """Return the names and parameters of the steps that a YAML file lists.

    Raises:
        UserError: there is no such file, or it is not a list of steps.
    """
    if not path.is_file():
        raise UserError(f"--augment {path}: there is no such file; name a YAML list of steps, or a preset")
    entries: Any = read_yaml(path)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise UserError(f"{path}: is no list of steps; write one step a line, such as `- HorizontalFlip: {{p: 0.5}}`")
    return [_listed(each, str(path)) for each in entries]


def _listed(entry: Any, where: str) -> Listed:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, parameters),) = entry.items()
        if isinstance(name, str) and isinstance(parameters, dict | None):
            return name, parameters or {}
    raise UserError(f"{where}: {entry!r} is no step; write its name, or `name: {{parameter: value}}`")


def library_transform(name: str, parameters: JsonObject, *, where: str, usable: Callable[[Any, str], bool]) -> Any:
    """Return a transform of albumentations. The import of albumentations takes seconds.

    Args:
        where: name of the list for messages.
        usable: from the module albumentations and the name of one of its transforms to whether it may be used.

    Raises:
        UserError: there is no usable transform of this name, or it does not take the parameters.
    """
    import albumentations as A

    known = [
        each
        for each, kind in vars(A).items()
        if isinstance(kind, type) and issubclass(kind, A.BasicTransform) and usable(A, each)
    ]
    if name not in known:
        raise UserError(f"{where}: {unknown_name('transform of albumentations', name, known)}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations only warns of unknown parameters
            return getattr(A, name)(**given)
    except (TypeError, ValueError, UserWarning) as error:
        raise UserError(f"{where}: {name}: {first_line(error)}; correct its parameters") from None
