"""Defaults of a training command: the options of the run to resume, or a recipe and those of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from backbones.common.files import JsonObject
from backbones.common.options import recorded, renamed
from tools.cli.parsing import peek_option


def resumed_config(argv: Sequence[str], *, prefix: str) -> Path | None:
    """Return config.yaml of the run that `--resume` continues; None without `--resume`, or if there is no such file.

    Args:
        prefix: first part of the names of run folders; without `--output` the newest of these runs is resumed.

    Raises:
        UserError: there is no run to resume.
    """
    if str(peek_option(argv, "resume")).lower() != "true":
        return None
    from tools.engine.run_folder import newest_run  # imports torch

    folder = peek_option(argv, "output")
    config = (Path(folder) if folder else newest_run(prefix)) / "config.yaml"
    return config if config.is_file() else None


def named_recipe(argv: Sequence[str], folder: Path) -> Path | None:
    """Return the file of `--recipe` in a folder, or None for an unknown name, which the parser refuses.

    The recipe "auto" is "standard" if `--data` is given, else "shapes".
    """
    name = str(peek_option(argv, "recipe") or "auto")
    if name == "auto":
        name = "standard" if peek_option(argv, "data") else "shapes"
    path = folder / f"{name}.yaml"
    return path if path.is_file() else None


def options_of_weights(argv: Sequence[str], *, task: str, model: type) -> JsonObject:
    """Return the options of a model that the header of `--weights` records; empty for weights without such a header.

    The weights of a run of another task record the backbone only. With `--eval-only`, `--bits` is recorded as well: an
    evaluation reads 16-bit images as the training did.

    Args:
        task: of the command.
        model: option group of the model.

    Raises:
        UserError: the weights are a folder without a trained model, or a repository that is not available.
    """
    weights = peek_option(argv, "weights")
    if not weights or str(peek_option(argv, "resume")).lower() == "true":
        return {}
    from backbones.weights.files import read_meta  # imports torch
    from backbones.weights.hub import resolve

    meta = read_meta(resolve(str(weights)))
    values, names = meta.get("model"), recorded(model)
    if not isinstance(values, dict) or "task" not in meta:
        return {}
    if meta["task"] != task:
        names &= {"backbone"}
    if "norm" in {field.name for field in fields(model)} and values.get("norm") == "group":
        names = names | {"norm"}  # its weights are not those of batch norm
    found = {name: value for name, value in renamed(values, [model]).items() if name in names}
    bits = meta.get("input", {}).get("bits")
    evaluates = meta["task"] == task and str(peek_option(argv, "eval_only")).lower() == "true"
    return {**found, "bits": bits} if bits is not None and evaluates else found
