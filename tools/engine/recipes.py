"""Defaults of a training command: the options of the run to resume, or a recipe and those of its weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import islice
from pathlib import Path

import yaml

from backbones.common.files import JsonObject, read_yaml
from backbones.common.listing import is_file, walk
from backbones.common.options import evaluated, fitting, recorded, renamed
from backbones.common.run_files import CONFIG_FILE
from backbones.errors import UserError
from tools.cli.arguments import last_value
from tools.cli.parsing import FurtherValues, peek_option

DATA = ("data", "annotations", "train_annotations", "val_annotations")  # options that name data
IMAGES = ("images", "train_images", "val_images")  # options that name folders of images


def resumed_config(argv: Sequence[str], *, prefix: str) -> Path | None:
    """Return config.yaml of the run that `--resume` continues; None without `--resume`, or if there is no such file.

    Args:
        prefix: first part of the names of run folders; without `--output` the newest of these runs is resumed.

    Raises:
        UserError: there is no run to resume.
    """
    if not is_on(argv, "resume"):
        return None
    from tools.engine.run_folder import newest_run  # imports torch

    folder = peek_option(argv, "output")
    config = (Path(folder) if folder else newest_run(prefix)) / CONFIG_FILE
    return config if config.is_file() else None


def named_recipe(
    argv: Sequence[str], folder: Path, *, of_data: Callable[[Sequence[Path]], str] = lambda _: "standard"
) -> Path | None:
    """Return the file of `--recipe` in a folder, or None for an unknown name, which the parser refuses.

    Args:
        folder: of the recipes.
        of_data: returns the name of the recipe "auto" for the paths of given data. Without data it is "shapes".
    """
    name = str(peek_option(argv, "recipe") or "auto")
    if name == "auto":
        paths = paths_of_data({option: peek_option(argv, option) for option in (*DATA, *IMAGES)})
        name = of_data(paths) if paths else "shapes"
    path = folder / f"{name}.yaml"
    return path if path.is_file() else None


def paths_of_data(options: Mapping[str, object]) -> list[Path]:
    """Return the files and folders of data that options name."""
    return [Path(str(options[name])) for name in (*DATA, *IMAGES) if options.get(name)]


def has_fewer_images(paths: Sequence[Path], most: int) -> bool:
    """Return whether folders hold at least one image file and fewer than `most`, in all their subfolders.

    For a file, such as a JSON, its folder counts; for a YAML whose `path` is a folder, that one. Counting ends at
    `most`.
    """
    from backbones.common.suffixes import IMAGE_SUFFIXES  # imports OpenCV

    folders = {_folder_of(path).resolve() for path in paths}
    outer = [folder for folder in folders if os.path.isdir(folder) and folders.isdisjoint(folder.parents)]
    images = (file for folder in outer for file in walk(folder) if file.suffix.lower() in IMAGE_SUFFIXES)
    return 0 < sum(1 for _ in islice(images, most)) < most


def _folder_of(path: Path) -> Path:
    """Return the folder in which data at a path may have its images."""
    if not is_file(path):
        return path
    if path.suffix.lower() not in (".yaml", ".yml"):
        return path.parent
    content = None
    with suppress(UserError):  # the reader of the data refuses this file, with what it needs
        content = read_yaml(path)
    own = content.get("path") if isinstance(content, dict) else None
    named = path.parent / own if isinstance(own, str) else path.parent
    return named if named.is_dir() else path.parent


def options_of_weights(argv: Sequence[str], *, task: str, groups: Sequence[type], model: type) -> FurtherValues:
    """Return the options of a model that the header of `--weights` records; empty for weights without such a header.

    The weights of a run of the same task hold a whole model. Its options take precedence over `--config`, because the
    weights fit no other model. The weights of a run of another task record the backbone only. With `--eval-only`,
    `--bits` and the choice of classes are recorded as well: an evaluation reads 16-bit images and classes as the
    training did. It also predicts as the run did, with its number of proposals, sizes, tiles and views of images,
    unless the command line or `--config` says otherwise. An exported file and `--val-loss` have one view of each image.

    Args:
        task: of the command.
        groups: all option groups of the command.
        model: option group of the model.

    Raises:
        UserError: the weights are a folder without a trained model, or a repository that is not available; or the
            command line contradicts an option without which the weights do not fit.
    """
    weights = peek_option(argv, "weights")
    if not weights or is_on(argv, "resume"):
        return FurtherValues()
    from backbones.weights.exported import is_exported  # imports torch
    from backbones.weights.files import read_config, read_meta
    from backbones.weights.hub import resolve

    path = resolve(str(weights)) or ""
    meta = read_meta(path)
    values, names = meta.get("model"), recorded(model)
    if not isinstance(values, dict) or "task" not in meta:
        return FurtherValues()
    whole = meta["task"] == task
    if not whole:
        names &= {"backbone", "stride_style", "weights_from"}
    if "norm" in {field.name for field in fields(model)} and values.get("norm") == "group":
        names = names | {"norm"}  # its weights are not those of batch norm
    found = {name: value for name, value in renamed(values, [model]).items() if name in names}
    bits = meta.get("input", {}).get("bits")
    if whole:
        _require_consistent(argv, {name: found[name] for name in found if name in fitting(model) | {"norm"}}, weights)
    defaults: JsonObject = {}
    if whole and is_on(argv, "eval_only"):
        found |= {**meta.get("categories", {}), **({} if bits is None else {"bits": bits})}
        config = {} if is_exported(path) or is_on(argv, "val_loss") else read_config(path)
        defaults = renamed({**config, **meta.get("input", {}), **values}, groups)
        defaults = {name: defaults[name] for name in evaluated(groups) - found.keys() if name in defaults}
    return FurtherValues(found, defaults=defaults, over_config=whole, source=f"--weights {weights}")


def is_on(argv: Sequence[str], name: str) -> bool:
    """Return whether the command line or `--config` turns an option on."""
    return str(peek_option(argv, name)).lower() == "true"


def _require_consistent(argv: Sequence[str], values: JsonObject, weights: object) -> None:
    """Refuse a command line that contradicts the recorded options of a model. None stands for the model's own value."""
    for name, own in values.items():
        text = last_value(argv, name)
        given = None if text is None else _parsed(text)
        if given is not None and own is not None and given != own:
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option} {text}: --weights {weights} is a model of {option} {own}; leave {option} out, or name other "
                "weights"
            )


def _parsed(text: str) -> object:
    """Return the value of an option on the command line, which is YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
