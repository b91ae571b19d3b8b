"""The built-in shapes, as the data of a run that names none."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from backbones.errors import UserError
from backbones.weights.files import read_config, read_meta
from backbones.weights.hub import resolve
from tools.engine.options import RunOptions
from tools.processes import distributed
from tools.synthetic.shapes import CATEGORIES

BUILT_IN = frozenset(category["name"] for category in CATEGORIES)


def built_in_data(prepare: Callable[[], Path], run: RunOptions, weights: str) -> Path:
    """Return the folder of a built-in data set, which is written on first use.

    Args:
        prepare: writes the data set and returns its folder.
        weights: the value of `--weights`.

    Raises:
        UserError: the weights that `--eval-only` evaluates know none of the shapes: the data were forgotten.
    """
    if run.eval_only and not run.resume:
        _require_shapes(weights)
    return distributed.on_main(prepare)


def _require_shapes(weights: str) -> None:
    meta = read_meta(resolve(weights))
    classes = meta.get("classes") or meta.get("category_names") or ()
    if not classes or not BUILT_IN.isdisjoint(classes):
        return
    config = read_config(resolve(weights))
    named = ("data", "val_annotations", "annotations")
    option, value = next(((name, config[name]) for name in named if config.get(name)), ("data", "DATA"))
    raise UserError(
        f"--weights {weights}: has none of the classes of the built-in shapes, which are evaluated because no data is "
        f"named; add --{option.replace('_', '-')} {shlex.quote(str(value))}"
    )
