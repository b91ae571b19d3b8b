"""Lists of augmentation steps in YAML files, and the transforms of albumentations by name.

- HorizontalFlip: {p: 0.5}
- GaussianBlur
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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


def library_transform(
    name: str,
    parameters: JsonObject,
    *,
    where: str,
    usable: Callable[[Any, str], bool],
    targets: Sequence[str] = ("image",),
    fill_mask: int | None = None,
) -> Any:
    """Return a transform of albumentations. The import of albumentations takes seconds.

    Args:
        where: name of the list for messages.
        usable: from the module albumentations and the name of one of its transforms to whether it may be used.
        targets: what the transform is called with.
        fill_mask: label of pixels beyond the image, for transforms that move label maps; the list may say otherwise.

    Raises:
        UserError: there is no usable transform of this name, or it does not take the parameters; it needs more than
            `targets`; or it returns another kind of image than it was given.
    """
    import albumentations as A

    known = [
        each
        for each, kind in vars(A).items()
        if isinstance(kind, type) and issubclass(kind, A.BasicTransform) and usable(A, each)
    ]
    if name not in known:
        raise UserError(f"{where}: {unknown_name('transform of albumentations', name, known)}")
    kind = getattr(A, name)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}
    beyond = inspect.signature(kind).parameters.get("fill_mask")
    if fill_mask is not None and beyond is not None and beyond.default is not None:  # None leaves label maps unchanged
        given = {"fill_mask": fill_mask, **given}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations only warns of unknown parameters
            made = kind(**given)
    except (TypeError, ValueError, UserWarning) as error:
        raise UserError(f"{where}: {name}: {_reason(error)}; correct its parameters") from None
    further = sorted({*made.targets_as_params} - {*targets})
    if further:
        raise UserError(f"{where}: {name}: needs {', '.join(further)}, which a list of steps cannot give; leave it out")
    if issubclass(kind, A.ImageOnlyTransform):
        _try_on_bytes(A.Compose([kind(**{**given, "p": 1})]), f"{where}: {name}")
    return made


def _try_on_bytes(transform: Any, where: str) -> None:
    """Refuse a transform of pixels alone that fails on an image of bytes, or does not return one of this shape."""
    image = (np.arange(64 * 64 * 3) % 256).astype(np.uint8).reshape(64, 64, 3)
    try:
        changed = transform(image=image)["image"]
    except Exception as error:  # albumentations and OpenCV raise many kinds of exceptions for wrong parameters
        raise UserError(f"{where}: fails on an image ({first_line(error)}); correct its parameters") from None
    if (changed.dtype, changed.shape) != (image.dtype, image.shape):
        raise UserError(
            f"{where}: turns an image of uint8 {list(image.shape)} into {changed.dtype} {list(changed.shape)}, but the "
            "model itself converts and normalises images; leave the step out"
        )


def _reason(error: Exception) -> str:
    """Return the message of an error in one line. Those of pydantic have the reason in the lines after the first."""
    lines = [line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line]
    return ": ".join(lines[1:3] or lines[:1])
