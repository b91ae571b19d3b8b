"""What a run may change when it goes on, and what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from tools.engine.checkpoint import require_like

# Options that may change between a run and its continuation without changing what is trained.
FREE_ON_RESUME = {
    "output",
    "resume",
    "eval_only",
    "dry_run",
    "workers",
    "threads",
    "timeout",
    "checkpoint_every",
    "keep_checkpoints",
    "eval_every",
    "eval_steps",
    "patience",
    "val_loss",
    "evaluator",
    "on_bad_image",
    "allow_outside",
}
# Options of evaluation alone, which may change where a run is only measured again.
FREE_IN_EVALUATION = {
    "val_split",
    "min_size",
    "window",
    "overlap",
    "test_scales",
    "test_flip",
    "test_sizes",
    "test_nms",
    "refine",
    "ensemble",
    "test_crops",
    "resize_size",
}
CATEGORIES = ("classes", "category_ids", "category_names")  # entries of `meta` that say what the net's outputs mean
STATE = {"training": dict, "random": list, "config": dict, "meta": dict, "versions": dict}


def require_same_run(
    state: Any, config: dict[str, Any], meta: dict[str, Any], *, path: Path, measured_only: bool
) -> None:
    """Refuse a checkpoint of other options or categories.

    Args:
        state: what was read from `path`.
        config: the options now.
        meta: what the data say now.
        measured_only: whether the run is evaluated and not trained on.

    Raises:
        UserError: naming what differs.
    """
    require_like(state, STATE, str(path))
    folder, free = path.parents[1], FREE_ON_RESUME | (FREE_IN_EVALUATION if measured_only else set())
    try:
        before, known = _as_json(state["config"]), _as_json(state["meta"])
    except (TypeError, ValueError):
        raise UserError(f"{path}: its options are none; resume from another checkpoint") from None
    _refuse_contradictions(before, _as_json(config), folder, free)
    now = _as_json(meta)
    _refuse_other_categories(known, now, folder)
    if not measured_only:
        _refuse_other_data(known.get("data", {}), now.get("data", {}), folder)
        _refuse_other_input(known.get("input"), now.get("input"), folder)


def _refuse_contradictions(before: dict[str, Any], now: dict[str, Any], folder: Path, free: set[str]) -> None:
    odd = [name for name in now if name not in free and name in before and before[name] != now[name]]
    if odd:
        shown = ", ".join(f"--{name} was {before[name]}, now {now[name]}" for name in odd)
        raise UserError(
            f"--resume: options contradict the run in {folder} ({shown}); leave them out or start a new run"
        )


def _refuse_other_categories(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    odd = next((name for name in CATEGORIES if before.get(name) != now.get(name)), None)
    if odd:
        words = odd.replace("_", " ")
        raise UserError(f"--resume: the data's {words} are not those of the run in {folder}; bring its data back")


def _refuse_other_data(before: dict[str, str], now: dict[str, str], folder: Path) -> None:
    odd = next((split for split in now if before.get(split, now[split]) != now[split]), None)
    if odd:
        raise UserError(
            f"--resume: the {odd} images are not those of the run in {folder}; bring its data back, or start a new run"
        )


def _refuse_other_input(before: Any, now: Any, folder: Path) -> None:
    """The weights that a run began with say how its images are normalised; theirs may have been replaced."""
    if before != now:
        raise UserError(
            f"--resume: sizes or normalisation of the inputs are not those of the run in {folder}; bring the --weights "
            "back that it began with"
        )


def fingerprints(train: Any | None, val: Any) -> dict[str, str]:
    """What tells the images of a run from others, by split."""
    return {name: data.fingerprint() for name, data in (("train", train), ("val", val)) if data is not None}


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """What becomes of options in a file: tuples are lists there."""
    return json.loads(json.dumps(config))
