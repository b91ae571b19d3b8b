"""Presets: lists of steps, in YAML files of this package or of the user.

- HorizontalFlip: {p: 0.5}      # a transform of albumentations
- large_scale_jitter: {scale: [0.1, 2.0]}
- copy_paste                    # a step with its default parameters
- shift: {pixels: 8}            # a registered augmentation
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from backbones.common.files import JsonObject
from backbones.common.registry import unknown_name
from backbones.common.step_lists import Listed, is_file, read_steps
from backbones.errors import UserError
from detection.augmentation.library import PHOTOMETRIC, LibrarySteps
from detection.augmentation.mixing import CopyPaste, Mixup, Mosaic
from detection.augmentation.registered import AUGMENTATIONS, RegisteredStep
from detection.augmentation.steps import AugmentationStep, IouCrop, LargeScaleJitter, ShortSide

STEPS: dict[str, type] = {
    "short_side": ShortSide,
    "large_scale_jitter": LargeScaleJitter,
    "iou_crop": IouCrop,
    "copy_paste": CopyPaste,
    "mosaic": Mosaic,
    "mixup": Mixup,
}
PHOTOMETRIC_STEP = "photometric"  # several transforms of albumentations
PRESETS = ("light", "train", "lsj", "strong", "eval")


def listed_steps(preset: str) -> list[Listed]:
    """Return the names and parameters of a preset's steps.

    Args:
        preset: a name of `PRESETS`, a YAML file, or the name of a registered augmentation.

    Raises:
        UserError: the preset is unknown, or its file is not a list of steps.
    """
    if preset in AUGMENTATIONS:
        return [(preset, {})]
    if preset not in PRESETS and not is_file(preset):
        raise unknown_name("augmentation", preset, [*PRESETS, *AUGMENTATIONS.names()])
    return read_steps(Path(preset) if is_file(preset) else Path(__file__).with_name(f"{preset}.yaml"))


def make_steps(listed: Sequence[Listed], *, where: str, check: bool) -> tuple[AugmentationStep, ...]:
    """Return the steps of a list.

    Args:
        where: name of the list for messages.
        check: whether to check the transforms of albumentations, which imports the library.

    Raises:
        UserError: a step is unknown, or has a wrong parameter.
    """
    steps = tuple(_steps(_expanded(listed), where))
    for step in steps:
        if check and isinstance(step, LibrarySteps):
            step.require_known(where)
    return steps


def _expanded(listed: Sequence[Listed]) -> Iterator[Listed]:
    """Yield the steps, with the transforms of `photometric` in its place."""
    for name, parameters in listed:
        if name == PHOTOMETRIC_STEP and not parameters:
            yield from (pair for each in PHOTOMETRIC for pair in each.items())
        else:
            yield name, parameters


def _steps(listed: Iterator[Listed], where: str) -> Iterator[AugmentationStep]:
    """Yield the steps. Consecutive transforms of albumentations, whose names begin with a capital, become one step."""
    waiting: list[Listed] = []
    for name, parameters in listed:
        if name[:1].isupper() and name not in AUGMENTATIONS:
            waiting.append((name, parameters))
            continue
        if waiting:
            yield LibrarySteps(json.dumps(waiting))
        waiting = []
        yield _own(name, parameters, where)
    if waiting:
        yield LibrarySteps(json.dumps(waiting))


def _own(name: str, parameters: JsonObject, where: str) -> AugmentationStep:
    """Return a step of this package, or the step of a registered augmentation."""
    if name in AUGMENTATIONS:
        return RegisteredStep(name, json.dumps(parameters))
    if name == PHOTOMETRIC_STEP:
        raise UserError(
            f"{where}: {name}: has no parameters; leave them out, or list its transforms one by one, such as "
            "`- ColorJitter: {p: 0.5}`"
        )
    if name not in STEPS:
        error = unknown_name("step", name, [*STEPS, PHOTOMETRIC_STEP, *AUGMENTATIONS.names()])
        raise UserError(f"{where}: {error}")
    kind = STEPS[name]
    known = {field.name: field.default for field in fields(kind)}
    for key, value in parameters.items():
        if key not in known:
            raise UserError(f"{where}: {name}: {unknown_name('parameter', key, known)}")
        if known[key] is not MISSING and not _is_like(value, known[key]):
            raise UserError(f"{where}: {name}: {key} is {value!r}; write a value such as {_shown(known[key])}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}
    try:
        return kind(**given)
    except ValueError as error:
        raise UserError(f"{where}: {name}: {error}") from None


def _is_like(value: Any, default: Any) -> bool:
    """Return whether a parameter has the type of its default: a finite number, or a list of finite numbers."""
    if isinstance(default, tuple):
        pair = len(default) == 2
        fits = isinstance(value, list) and (not pair or len(value) == 2)
        return fits and all(_is_like(each, 0.0) for each in value)
    kinds = int if isinstance(default, int) else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _shown(default: Any) -> str:
    return str(list(default) or [640, 800]) if isinstance(default, tuple) else str(default)


@cache
def preset_steps(preset: str) -> tuple[AugmentationStep, ...]:
    """Return the steps of a preset of this package. They are read once."""
    return make_steps(listed_steps(preset), where=preset, check=False)
