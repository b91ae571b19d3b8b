"""Checks that a checkpoint fits the run that resumes from it: same options, classes, images and input sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TypeAlias, TypedDict, cast

from backbones.common.files import JsonObject
from backbones.common.options import extensible, renamed, resumable
from backbones.errors import UserError, counted
from tools.engine.checkpoint import require_like

CATEGORIES = ("classes", "category_ids", "category_names")  # entries of `meta` that name the outputs of the model
Changes: TypeAlias = dict[str, tuple[object, object]]  # values before and now, by the name of the option
STATE = {"training": dict, "random": list, "config": dict, "meta": dict, "versions": dict}


class SavedRun(TypedDict):
    """Content of a checkpoint of a training.

    Attributes:
        training: state of model, optimizer and counters.
        random: states of the random generators, one entry per process.
        config: all options.
        meta: classes, fingerprints of the images, and sizes and normalisation of the inputs.
        versions: versions of the libraries.
    """

    training: JsonObject
    random: list[object]
    config: JsonObject
    meta: JsonObject
    versions: JsonObject


def require_same_run(
    state: object,
    config: JsonObject,
    meta: JsonObject,
    *,
    path: Path,
    measured_only: bool,
    groups: Sequence[type] = (),
    nonfinite: Sequence[int] = (),
    after_nonfinite: bool = False,
) -> Changes:
    """Check that a checkpoint fits this run; return the options that differ from the checkpoint's and may differ.

    These are options such as the number of epochs if it grew, and some options if the run stopped at values that are
    not finite, after this checkpoint.

    Args:
        state: content of the checkpoint, a `SavedRun`.
        config: the options of this run.
        meta: what the data and weights of this run say.
        measured_only: whether the run only evaluates the checkpoint; then images and inputs may differ.
        groups: option groups of the command. Their fields say which options may change
            (`backbones.common.options.option`).
        nonfinite: steps at which the run stopped because a value was not finite.
        after_nonfinite: whether a newer checkpoint exists but is not used, because its values are not finite.

    Raises:
        UserError: naming what differs.
    """
    require_like(state, STATE, str(path))
    saved = cast(SavedRun, state)
    stopped = after_nonfinite or any(step > saved["training"].get("step", 0) for step in nonfinite)
    folder, free = path.parents[1], resumable(groups, evaluation=measured_only, nonfinite=stopped)
    # Compare as JSON, where tuples are lists, because the saved values come from JSON.
    try:
        saved_config, saved_meta = renamed(_as_json(saved["config"]), groups), _as_json(saved["meta"])
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: the options in this checkpoint cannot be read; resume from another checkpoint"
        ) from None
    now = _as_json(meta)
    config = _as_json(config)
    grown = {name for name in extensible(groups) if config.get(name, 0) > saved_config.get(name, 0)}
    _require_same_options(saved_config, config, folder, free | grown, extensible(groups))
    _require_same_categories(saved_meta, now, folder)
    if not measured_only:
        _require_same_images(saved_meta.get("data", {}), now.get("data", {}), folder)
        _require_same_input(saved_meta.get("input"), now.get("input"), folder)
        _require_same_augmentation(saved_meta, now, folder)
    noted = grown | (free - resumable(groups, evaluation=measured_only))
    return {name: (saved_config[name], config[name]) for name in _differing(saved_config, config) if name in noted}


def describe_end(changed: Changes, epochs: int, *, done: int, rates: tuple[float, float]) -> str:
    """Return how a resumed run goes on if it gets longer, or how to train on if it has reached its end; "" otherwise.

    Args:
        changed: options that were changed on resuming.
        epochs: number of epochs of the run.
        done: number of finished epochs.
        rates: learning rate of the next step by the schedule of the checkpoint, and by the schedule of this run.
    """
    if "epochs" in changed:
        return (
            f"the schedule now covers {epochs} epochs: the learning rate goes on at {rates[1]:.3g} instead of "
            f"{rates[0]:.3g}, as at this step in a run of {epochs} epochs"
        )
    return (
        f"the run has reached the end of its {counted(epochs, 'epoch')}; a larger --epochs trains on"
        if done >= epochs
        else ""
    )


def describe_changes(changed: Changes, record: Path) -> list[str]:
    """Return a line for each option that was changed on resuming.

    Args:
        record: file that records the changes.
    """
    return [
        f"--{name.replace('_', '-')} was {before}, is now {now}; {record} records the change"
        for name, (before, now) in changed.items()
    ]


def _require_same_options(
    before: JsonObject, now: JsonObject, folder: Path, free: Set[str], may_grow: Set[str]
) -> None:
    different = [name for name in _differing(before, now) if name not in free]
    if different:
        shown = ", ".join(f"--{name.replace('_', '-')} was {before[name]}, now {now[name]}" for name in different)
        larger = "".join(f" (--{name} may only become larger)" for name in different if name in may_grow)
        raise UserError(
            f"--resume: options contradict the run in {folder} ({shown}); leave them out or start a new run{larger}"
        )


def _differing(before: JsonObject, now: JsonObject) -> list[str]:
    """Return the names of the options whose values differ."""
    return [name for name in now if name in before and before[name] != now[name]]


def _require_same_categories(before: JsonObject, now: JsonObject, folder: Path) -> None:
    different = next((name for name in CATEGORIES if before.get(name) != now.get(name)), None)
    if different:
        raise UserError(
            f"--resume: the {different.replace('_', ' ')} of the data differ from those of the run in {folder}; resume "
            "with the data of that run"
        )


def _require_same_augmentation(before: JsonObject, now: JsonObject, folder: Path) -> None:
    if before.get("augment") != now.get("augment"):
        raise UserError(
            f"--resume: the file of --augment has other steps than in the run in {folder}, whose steps were "
            f"{json.dumps(before.get('augment'))}; restore the file, or start a new run"
        )


def _require_same_images(before: Mapping[str, str], now: Mapping[str, str], folder: Path) -> None:
    different = next((split for split in now if before.get(split, now[split]) != now[split]), None)
    if different:
        raise UserError(
            f"--resume: the {different} images differ from those of the run in {folder}; resume with the data of that "
            "run, or start a new run"
        )


def _require_same_input(before: object, now: object, folder: Path) -> None:
    """Check that image sizes and normalisation, which the file of --weights determines, equal those of the run."""
    if before != now:
        raise UserError(
            f"--resume: sizes or normalisation of the inputs differ from those of the run in {folder}; restore the "
            "file of --weights that the run began with"
        )


def _as_json(values: JsonObject) -> JsonObject:
    return json.loads(json.dumps(values))
