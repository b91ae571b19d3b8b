"""Plan of an experiment: for each task the options, those that vary, and their values."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from backbones.common.files import read_yaml
from backbones.common.options import renamed
from backbones.errors import UserError, require
from tools.cli.packaged import experiment_file
from tools.experiments.options import CompareOptions
from tools.experiments.variants import check_variants, option_names, option_values, with_present_names
from tools.tasks.options import COMMANDS

SEED, DRAW, FOLD = "seed", "draw", "fold"  # the axes that results are averaged over
REPEATED = (FOLD, DRAW, SEED)
OWN_OPTIONS = ("output", "resume", "eval_only", "dry_run")  # options that the comparison itself sets for each cell
TASK_KEYS = ("script", "options", "matrix", "runs")  # keys of an experiment, or of one task of it
COMMON_KEYS = ("tasks", "equal_steps")  # keys of the whole experiment only

Values: TypeAlias = dict[str, object]  # JSON values by option
Matrix: TypeAlias = dict[str, Values]  # option -> name of a value -> the value


@dataclass(frozen=True)
class Plan:
    """Plan of one task of an experiment: its training command, options, and matrix of values.

    Attributes:
        script: name of the training command, such as "train_cls".
        arguments: command-line arguments that all runs of the task share.
        matrices: maps from options to values; each combination of values is a cell (run) of the task.
        task: name of the task in the experiment; empty if the experiment has only one task.
        equal_steps: with a fraction of the data, train more epochs, so that the number of steps is the same.
    """

    script: str
    arguments: tuple[str, ...]
    matrices: tuple[Matrix, ...]
    task: str = ""
    equal_steps: bool = False

    def axes(self) -> list[str]:
        """Return the names of the options that vary, the fold, the draw and the seed last."""
        names = dict.fromkeys(name for matrix in self.matrices for name in matrix)
        return [name for name in names if name not in REPEATED] + [name for name in REPEATED if name in names]

    def combinations(self) -> Iterator[tuple[dict[str, str], Values]]:
        """Yield for each cell (run) the names of its values by axis, and its options."""
        for matrix in self.matrices:
            for names in product(*matrix.values()):
                chosen = dict(zip(matrix, names, strict=True))
                yield chosen, option_values({axis: matrix[axis][name] for axis, name in chosen.items()})


def make_plans(options: CompareOptions, arguments: Sequence[str], plugins: Sequence[str] = ()) -> list[Plan]:
    """Return the plans of the tasks, from the experiment file or from the command line.

    Args:
        arguments: arguments of the command line that are for the training command.
        plugins: values of --plugin, for all cells (runs).

    Raises:
        UserError: the file is not a valid experiment, or a list of the command line is empty.
    """
    for_plugins = to_arguments({"plugin": list(plugins)}) if plugins else ()
    if options.experiment:
        if arguments:
            raise UserError(
                f"-- {arguments[0]}: with an experiment file no further options are allowed; write this "
                f"option into {options.experiment}"
            )
        plans = read_plans(experiment_file(options.experiment), list(COMMANDS))
        return [replace(plan, arguments=(*plan.arguments, *for_plugins)) for plan in plans]
    matrix: Matrix = {}
    for axis, text in (("backbone", options.backbones), (DRAW, options.draws), (SEED, options.seeds)):
        if text is not None:
            values = [value.strip() for value in str(text).split(",") if value.strip()]
            require(values, f"{axis}s", text, "name at least one; separate several with commas")
            matrix |= matrix_of({axis: values}, f"--{axis}s")
    shared = (*arguments, *for_plugins)
    if options.folds is not None:
        matrix |= matrix_of({FOLD: list(range(options.folds))}, "--folds")
        shared = (*shared, f"--folds={options.folds}")
    rule = "name the backbones to compare, separated by commas, or give --seeds, --draws or --folds"
    require(matrix, "backbones", options.backbones, rule)
    return [Plan(str(options.script), shared, (matrix,))]


def read_plans(path: Path, scripts: Sequence[str]) -> list[Plan]:
    """Read an experiment file: one entry with `script`, `options`, `matrix` and `runs`, or several of them in `tasks`.

    Args:
        scripts: names of the training commands.

    Raises:
        UserError: naming the file and the key that is wrong.
    """
    values = _mapping(read_yaml(path, fix="name the YAML file of an experiment"), str(path))
    unknown = set(values) - {*TASK_KEYS, *COMMON_KEYS}
    _refuse(unknown, f"{path}: unknown key", f"the keys of an experiment are {', '.join(TASK_KEYS + COMMON_KEYS)}")
    equal_steps = values.get("equal_steps", False)
    if not isinstance(equal_steps, bool):
        raise UserError(f"{path}: `equal_steps` is {equal_steps!r}; write true or false")
    if "tasks" not in values:
        return [_plan(values, str(path), scripts, equal_steps=equal_steps)]
    tasks = _mapping(values["tasks"], f"{path}: tasks")
    if not tasks:
        raise UserError(f"{path}: `tasks` is empty; write `tasks: {{cells: {{script: train_det, ...}}}}`")
    wrong = next((name for name in tasks if not re.fullmatch(r"[\w.+-]+", name)), None)
    if wrong is not None:
        raise UserError(
            f"{path}: tasks: {wrong}: a task's name is part of folder names; use only letters, digits and . _ + -"
        )
    joined = {name: _with_common(values, entry, f"{path}: tasks: {name}") for name, entry in tasks.items()}
    return [_plan(v, f"{path}: {name}", scripts, task=name, equal_steps=equal_steps) for name, v in joined.items()]


def value_name(value: object) -> str:
    """Return a name for a value that the experiment file does not name, made from the value itself."""
    return value if isinstance(value, str) else json.dumps(value)


def matrix_of(value: object, where: str) -> Matrix:
    """Read a matrix. It maps each option to a list of values, to a mapping of names to values, or to one value.

    Raises:
        UserError: there is no option, an option has no value, or two values of an option have the same name.
    """
    matrix: Matrix = {}
    for option, values in _mapping(value, where).items():
        listed = values if isinstance(values, (list, dict)) else [values]
        if not listed:
            raise UserError(f"{where}: {option} has no values; list at least one")
        named = listed if isinstance(listed, dict) else {value_name(each): each for each in listed}
        matrix[option] = {value_name(name): each for name, each in named.items()}
        if len(matrix[option]) < len(named):  # such as 1 and "1"
            raise UserError(
                f"{where}: {option}: two of the values {', '.join(map(repr, named))} have the same name; "
                "rename one of them"
            )
    if not matrix:
        raise UserError(f"{where}: lists no option to vary; write `{{backbone: [resnet20, plain20]}}`")
    return matrix


def to_arguments(values: Mapping[str, object]) -> tuple[str, ...]:
    """Convert options and their values to command-line arguments."""
    return tuple(f"--{name}={value_name(value)}" for name, value in values.items())


def fill_placeholders(values: Mapping[str, object], *, where: str) -> Values:
    """Replace `{option}` in each value by the value of this option, as in runs/{backbone}/model.safetensors.

    Raises:
        UserError: a placeholder names no option.
    """

    def fill(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UserError(f"{where}: {match[0]} is not an option of the cell; use one of {', '.join(values)}")
        return value_name(values[match[1]])

    return {name: re.sub(r"\{(\w+)\}", fill, v) if isinstance(v, str) else v for name, v in values.items()}


def draws_images(config: Mapping[str, Any]) -> bool:
    """Return whether a run with these options is trained on a part of the training images, which `draw` may choose."""
    return config.get("fraction", 1) < 1 or any(config.get(name) for name in ("shots", "train_list"))


def known_options(script: str) -> list[str]:
    """Return the names of a training command's options."""
    return [field.name for group in COMMANDS[script].groups for field in fields(group)]


def _with_common(common: Mapping[str, object], own: object, where: str) -> Values:
    """Return a task's entry of the file, completed by the common options and matrix. The task's own values win."""
    entry = _mapping(own, where)
    _refuse(set(entry) - set(TASK_KEYS), f"{where}: unknown key", f"the keys of a task are {', '.join(TASK_KEYS)}")
    if "runs" in common:
        raise UserError(f"{where}: `runs` and `tasks` cannot be combined; move `runs` into the entries of `tasks`")
    joined = {**common, **entry}
    for key in ("options", "matrix"):
        if key in common and key in entry:
            joined[key] = {**_mapping(common[key], f"{where}: {key}"), **_mapping(entry[key], f"{where}: {key}")}
    return joined


def _plan(
    values: Mapping[str, object], where: str, scripts: Sequence[str], *, task: str = "", equal_steps: bool
) -> Plan:
    """Check the keys and options of one task; return its plan."""
    script = str(values.get("script"))
    if script not in scripts:
        raise UserError(f"{where}: `script` is {script}; use {' or '.join(scripts)}")
    groups = COMMANDS[script].groups
    options = renamed(_mapping(values.get("options", {}), f"{where}: options"), groups)
    entries = _matrix_entries(values, where)
    matrices = {key: with_present_names(matrix_of(v, f"{where}: {key}"), groups) for key, v in entries.items()}
    check_variants(matrices, where)
    known = known_options(script)
    named = {"options": {*options}, **{key: option_names(matrix) for key, matrix in matrices.items()}}
    for key, names in named.items():
        _refuse(
            {*names} & {*OWN_OPTIONS},
            f"{where}: option",
            "leave this option out, because the comparison sets it for each cell",
        )
        _refuse(
            {*names} & {"plugin"},
            f"{where}: option",
            "an experiment file cannot import code, so give --plugin to compare.py",
        )
        _require_known(names, known, f"{where}: {key}", script)
    return Plan(script, to_arguments(options), tuple(matrices.values()), task, equal_steps)


def _matrix_entries(values: Mapping[str, object], where: str) -> Values:
    """Return the parts of the file that describe a matrix: `matrix`, and each entry of `runs`."""
    runs = values.get("runs", [])
    if not isinstance(runs, list):
        raise UserError(f"{where}: `runs` is not a list; write one entry `- option: [values]` per part of the matrix")
    entries = {"matrix": values["matrix"]} if "matrix" in values else {}
    entries |= {f"runs[{number}]": entry for number, entry in enumerate(runs)}
    if not entries:
        raise UserError(f"{where}: has neither `matrix` nor `runs`; write `matrix: {{backbone: [resnet20, plain20]}}`")
    return entries


def _require_known(names: Collection[str], known: Sequence[str], where: str, script: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            way_out = f"did you mean {near[0]}?" if near else f"see python tools/{script}.py --help"
            raise UserError(f"{where}: {name} is not an option of {script}; {way_out}")


def _mapping(value: object, where: str) -> Values:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where}: contains no `name: value` lines; see --help for an example")
    return value


def _refuse(names: Collection[str], what: str, way_out: str) -> None:
    if names:
        raise UserError(f"{what} {', '.join(sorted(map(str, names)))}; {way_out}")
