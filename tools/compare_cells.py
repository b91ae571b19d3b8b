"""The cells of an experiment: which runs it consists of, what they are called, and how far each of them is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from tools.files import read_yaml
from tools.run_log import BEST, LAST

SEED = "seed"  # the axis that is averaged over
OWN = ("output", "resume", "eval_only")  # options that each cell gets from here
KEYS = ("script", "options", "matrix", "runs")
FILES = (".safetensors", ".pth", ".pt")
Matrix = dict[str, list[Any]]


@dataclass(frozen=True)
class Plan:
    """What an experiment says.

    Attributes:
        script: stem of the training script, such as "train_cls".
        words: command line that all cells share.
        matrices: option -> values; the cells are the products of each.
    """

    script: str
    words: tuple[str, ...]
    matrices: tuple[Matrix, ...]


@dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Attributes:
        name: of its folder.
        words: its command line, without --output.
        config: all its options as the script resolves them, as JSON values.
    """

    name: str
    words: tuple[str, ...]
    config: dict[str, Any]


def read_plan(path: Path, scripts: Sequence[str]) -> Plan:
    """Read an experiment file: `script`, `options`, `matrix`, `runs`.

    Args:
        scripts: those that may be named.

    Raises:
        UserError: naming the file and the key that is wrong.
    """
    values = _mapping(read_yaml(path, way_out="name the YAML file of an experiment"), str(path))
    _refuse(set(values) - set(KEYS), f"{path}: unknown key", f"an experiment has {', '.join(KEYS)}")
    if values.get("script") not in scripts:
        raise UserError(f"{path}: script is {values.get('script')!r}; take {' or '.join(scripts)}")
    options = _mapping(values.get("options", {}), f"{path}: options")
    entries = [("matrix", values["matrix"])] if "matrix" in values else []
    runs = values.get("runs", [])
    if not isinstance(runs, list):
        raise UserError(f"{path}: runs is not a list; write one `- option: [values]` entry per part of the matrix")
    entries += [(f"runs[{number}]", entry) for number, entry in enumerate(runs)]
    if not entries:
        raise UserError(f"{path}: has neither matrix nor runs; write `matrix: {{backbone: [resnet20, plain20]}}`")
    matrices = [_matrix(entry, f"{path}: {where}") for where, entry in entries]
    for name in [*options, *(name for matrix in matrices for name in matrix)]:
        _refuse({name} & set(OWN), f"{path}: option", "the comparison sets it for each cell")
    return Plan(values["script"], words(options), tuple(matrices))


def words(options: dict[str, Any]) -> tuple[str, ...]:
    """Options as a command line."""
    return tuple(f"--{name}={_word(value)}" for name, value in options.items())


def axes(plan: Plan) -> list[str]:
    """The options that vary, the seed last."""
    names = dict.fromkeys(name for matrix in plan.matrices for name in matrix)
    return [name for name in names if name != SEED] + [SEED] * (SEED in names)


def cells(plan: Plan) -> list[Cell]:
    """All cells in order; a run that two parts of the matrix ask for is there once.

    Raises:
        UserError: for options that the script refuses, or two cells that would share a folder.
    """
    found: dict[str, Cell] = {}
    order = axes(plan)
    for values in _combinations(plan.matrices):
        name = "-".join(label(option, values[option]) for option in order if option in values)
        line = (*plan.words, *words(values))
        cell = Cell(name, line, resolve(plan.script, line, where=name))
        same = found.setdefault(name, cell)
        odd = [option for option in cell.config if cell.config[option] != same.config.get(option)]
        if odd:
            raise UserError(
                f"two cells would share the folder {name}: --{odd[0]} {same.config[odd[0]]} and {cell.config[odd[0]]}; "
                "rename one value, such as the file that it names"
            )
    return list(found.values())


def label(option: str, value: Any) -> str:
    """How a value reads in the name of a folder: resnet20, seed0, weights_imagenet; a file goes by its run's name."""
    text = _word(value)
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
    from tools.cli import parse, to_dict

    module: Any = import_module(f"tools.{script}")
    try:
        options = parse(module.Options, description=script, argv=line, recipe=module.recipe)
    except UserError as error:
        raise UserError(f"cell {where}: {error}") from None
    return json.loads(json.dumps(to_dict(options)))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where}: holds no `name: value` lines; see --help for an example")
    return value


def _matrix(value: Any, where: str) -> Matrix:
    matrix = {name: v if isinstance(v, list) else [v] for name, v in _mapping(value, where).items()}
    for name, values in matrix.items():
        if not values:
            raise UserError(f"{where}: {name} has no values; list at least one")
    return matrix


def _combinations(matrices: Sequence[Matrix]) -> list[dict[str, Any]]:
    return [
        dict(zip(matrix, values, strict=True)) for matrix in matrices for values in product(*map(list, matrix.values()))
    ]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _refuse(names: set[str], what: str, way_out: str) -> None:
    if names:
        raise UserError(f"{what} {', '.join(sorted(map(str, names)))}; {way_out}")
