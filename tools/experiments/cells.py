"""The cells of an experiment: each cell is one training run with a folder name and options."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.common.files import JsonObject
from backbones.common.run_files import MODEL_FILE
from backbones.errors import UserError
from tools.cli.parsing import parse, to_dict
from tools.engine.run_folder import BEST, LAST
from tools.experiments.plan import DRAW, Plan, Values, draws_images, fill_placeholders, to_arguments, value_name
from tools.tasks.options import COMMANDS

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Cell:
    """A cell: one training run of an experiment.

    Attributes:
        name: name of the cell and of its folder.
        script: name of the training command.
        arguments: arguments of the training command, without --output.
        config: all options, as JSON values, with defaults and recipe resolved.
        labels: names of the values of the options that vary.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    config: JsonObject
    labels: dict[str, str]

    def label(self, axis: str) -> str:
        """Return the name of this cell's value of the option `axis`, even if only other cells vary the option."""
        return self.labels[axis] if axis in self.labels else value_name(self.config.get(axis))


def make_cells(plan: Plan) -> list[Cell]:
    """Return the cells (training runs) of a plan, in the order of its matrix.

    A run that two parts of the matrix contain is one cell, with the name from the first part. Otherwise it would count
    as two seeds that agree. Draws of all training images are the same run.

    Raises:
        UserError: the training command refuses an option, or two different cells have the same folder name.
    """
    by_name: dict[str, Cell] = {}
    order = plan.axes()
    for labels, values in plan.combinations():
        parts = [folder_part(option, labels[option]) for option in order if option in labels]
        name = "-".join([plan.task] * bool(plan.task) + parts)
        cell = _cell(plan, name, labels, values)
        _require_equal(by_name.setdefault(name, cell), cell)
    unique: dict[str, Cell] = {}
    for cell in by_name.values():
        config, axes = cell.config, order
        if not draws_images(config):
            config, axes = {**config, DRAW: None}, [axis for axis in order if axis != DRAW]
        key = json.dumps([config, [cell.label(axis) for axis in axes]], sort_keys=True)
        unique.setdefault(key, cell)
    return list(unique.values())


def folder_part(option: str, value: str) -> str:
    """Return how an option's value appears in folder names, such as resnet20, seed0 or weights_imagenet.

    A weights file appears as the name of its run.
    """
    text = value
    if Path(text).suffix in WEIGHTS_SUFFIXES:
        path = Path(text)
        files_of_runs = [Path(MODEL_FILE), Path(BEST), Path(LAST)]
        run = next((path.parents[len(end.parts) - 1].name for end in files_of_runs if path.match(str(end))), "")
        text = run or path.stem
    text = re.sub(r"[^\w.+]+", "_", text).strip("_.")
    if option == "backbone":
        return text
    return f"{option}{text}" if re.match(r"[\d.]", text) else f"{option}_{text}"


def resolve_options(script: str, arguments: Sequence[str], *, cell: str) -> JsonObject:
    """Return all options of a training command as JSON values, with its recipe and defaults.

    Args:
        cell: name of the cell, for error messages.

    Raises:
        UserError: the training command refuses an option.
    """
    command = COMMANDS[script]
    try:
        options = parse(
            command.options, description=script, argv=arguments, recipe=command.recipe, further=command.further
        )
    except UserError as error:
        raise UserError(f"cell {cell}: {error}") from None
    return json.loads(json.dumps(to_dict(options)))


def _cell(plan: Plan, name: str, labels: dict[str, str], values: Values) -> Cell:
    """Make one cell (training run): replace `{option}` placeholders and adjust the number of epochs."""
    # A placeholder may name any option of the command, so resolve the options before filling it.
    has_placeholder = any("{" in str(value) for value in values.values())
    config = resolve_options(plan.script, plan.arguments, cell=name) if has_placeholder else {}
    filled = fill_placeholders({**config, **values}, where=f"cell {name}")
    arguments = (*plan.arguments, *to_arguments({option: filled[option] for option in values}))
    config = resolve_options(plan.script, arguments, cell=name)
    # On a part of the data, an epoch has fewer steps: make up for it with more epochs, or with longer epochs if the
    # number of images is not known yet.
    if plan.equal_steps and draws_images(config):
        longer: Values = {key: round(config[key] / config["fraction"]) for key in ("epochs", "eval_every")}
        arguments = (*arguments, *to_arguments(longer if config["fraction"] < 1 else {"full_epochs": True}))
        config = resolve_options(plan.script, arguments, cell=name)
    return Cell(name, plan.script, arguments, config, labels)


def _require_equal(one: Cell, other: Cell) -> None:
    """Check that two cells with the same folder name have the same options.

    Raises:
        UserError: naming an option that differs.
    """
    different = [option for option in other.config if other.config[option] != one.config.get(option)]
    if different:
        option, flag = different[0], f"--{different[0].replace('_', '-')}"
        raise UserError(
            f"two cells would use the same folder {one.name}, because {flag} {one.config.get(option)} "
            f"and {other.config[option]} shorten to the same name; change one of the values, for example "
            "by renaming its file"
        )
