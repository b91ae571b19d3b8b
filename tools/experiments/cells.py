"""The cells of an experiment: which runs it consists of, and what they are called."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from tools.cli.parsing import parse, to_dict
from tools.engine.run_folder import BEST, LAST
from tools.experiments.plan import Plan, filled, named, words
from tools.tasks.options import COMMANDS

FILES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Attributes:
        name: of its folder.
        script: stem of the training script.
        words: its command line, without --output.
        config: all its options as the script resolves them, as JSON values.
        labels: option -> what its value is called, of those that vary.
    """

    name: str
    script: str
    words: tuple[str, ...]
    config: dict[str, Any]
    labels: dict[str, str]

    def called(self, axis: str) -> str:
        """What the value of an axis is called; where its part of the matrix lacks the axis, the option's value."""
        return self.labels[axis] if axis in self.labels else named(self.config.get(axis))


def cells(plan: Plan) -> list[Cell]:
    """All cells in order; a run that two parts of the matrix ask for is there once, under the first one's name.

    Twice in a row of the table, it would count for two seeds that agree.

    Raises:
        UserError: for options that the script refuses, or two cells that would share a folder.
    """
    found: dict[str, Cell] = {}
    order = plan.axes()
    for labels, values in plan.combinations():
        parts = [label(option, labels[option]) for option in order if option in labels]
        name = "-".join([plan.task] * bool(plan.task) + parts)
        cell = _cell(plan, name, labels, values)
        _require_apart(found.setdefault(name, cell), cell)
    alike: dict[str, Cell] = {}
    for cell in found.values():
        alike.setdefault(json.dumps([cell.config, [cell.called(axis) for axis in order]], sort_keys=True), cell)
    return list(alike.values())


def label(option: str, value: str) -> str:
    """How a value reads in the name of a folder: resnet20, seed0, weights_imagenet; a file goes by its run's name."""
    text = value
    if Path(text).suffix in FILES:
        path = Path(text)
        inside = [Path("model.safetensors"), Path(BEST), Path(LAST)]
        run = next((path.parents[len(end.parts) - 1].name for end in inside if path.match(str(end))), "")
        text = run or path.stem
    text = re.sub(r"[^\w.+]+", "_", text).strip("_.")
    if option == "backbone":
        return text
    return f"{option}{text}" if re.match(r"[\d.]", text) else f"{option}_{text}"


def resolve(script: str, line: Sequence[str], *, where: str) -> dict[str, Any]:
    """All options that a script makes of a command line: its recipe's, its defaults, as JSON values.

    Raises:
        UserError: what the script itself would say.
    """
    command = COMMANDS[script]
    try:
        options = parse(command.options, description=script, argv=line, recipe=command.recipe)
    except UserError as error:
        raise UserError(f"cell {where}: {error}") from None
    return json.loads(json.dumps(to_dict(options)))


def _cell(plan: Plan, name: str, labels: dict[str, str], values: dict[str, Any]) -> Cell:
    config = resolve(plan.script, plan.words, where=name) if any("{" in str(v) for v in values.values()) else {}
    values = {option: filled({**config, **values}, where=f"cell {name}")[option] for option in values}
    line = (*plan.words, *words(values))
    config = resolve(plan.script, line, where=name)
    if plan.equal_steps and config["fraction"] < 1:
        line = (*line, *words({key: round(config[key] / config["fraction"]) for key in ("epochs", "eval_every")}))
        config = resolve(plan.script, line, where=name)
    return Cell(name, plan.script, line, config, labels)


def _require_apart(one: Cell, other: Cell) -> None:
    """Refuse two different cells of one name.

    Raises:
        UserError: naming an option that differs.
    """
    odd = [option for option in other.config if other.config[option] != one.config.get(option)]
    if odd:
        raise UserError(
            f"two cells would share the folder {one.name}: --{odd[0]} {one.config.get(odd[0])} and "
            f"{other.config[odd[0]]}; rename one value, such as the file that it names"
        )
