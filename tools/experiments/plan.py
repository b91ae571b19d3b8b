"""The file of an experiment: which options vary over which values, in one task or in several."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from backbones.common.files import read_yaml
from backbones.common.options import renamed
from backbones.errors import UserError, require
from tools.cli.arguments import POSITIONAL
from tools.tasks.options import COMMANDS

SCRIPT_TASKS = {"train_cls": "classification", "train_det": "detection", "train_seg": "segmentation"}
SEED = "seed"  # the axis that is averaged over


OWN = ("output", "resume", "eval_only", "dry_run")  # options that each cell gets from the comparison


OF_TASK = ("script", "options", "matrix", "runs")


OF_ALL = ("tasks", "equal_steps")


Matrix = dict[str, dict[str, Any]]  # option -> what a value is called -> the value


@dataclass(frozen=True)
class Plan:
    """One task of an experiment.

    Attributes:
        script: stem of the training script, such as "train_cls".
        options: of all its runs, as command line words.
        matrices: the cells are the products of each.
        task: what the experiment calls it; empty where there is only one.
        equal_steps: runs on a share of the data make as many steps as those on all of it.
    """

    script: str
    words: tuple[str, ...]
    matrices: tuple[Matrix, ...]
    task: str = ""
    equal_steps: bool = False

    def axes(self) -> list[str]:
        """The options that vary, the seed last."""
        names = dict.fromkeys(name for matrix in self.matrices for name in matrix)
        return [name for name in names if name != SEED] + [SEED] * (SEED in names)

    def combinations(self) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
        """What the values of each cell are called, and the values."""
        for matrix in self.matrices:
            for labels in product(*matrix.values()):
                chosen = dict(zip(matrix, labels, strict=True))
                yield chosen, {option: matrix[option][label] for option, label in chosen.items()}


def read_plans(path: Path, scripts: Sequence[str]) -> list[Plan]:
    """Read an experiment file: `script`, `options`, `matrix`, `runs`, or several such under `tasks`.

    Args:
        scripts: those that may be named.

    Raises:
        UserError: naming the file and the key that is wrong.
    """
    values = _mapping(read_yaml(path, fix="name the YAML file of an experiment"), str(path))
    _refuse(
        set(values) - {*OF_TASK, *OF_ALL}, f"{path}: unknown key", f"an experiment has {', '.join(OF_TASK + OF_ALL)}"
    )
    equal = values.get("equal_steps", False)
    if not isinstance(equal, bool):
        raise UserError(f"{path}: equal_steps is {equal!r}; write true or false")
    if "tasks" not in values:
        return [_plan(values, str(path), scripts, equal_steps=equal)]
    tasks = _mapping(values["tasks"], f"{path}: tasks")
    if not tasks:
        raise UserError(f"{path}: tasks names none; write `tasks: {{cells: {{script: train_det, ...}}}}`")
    odd = next((name for name in tasks if not re.fullmatch(r"[\w.+-]+", name)), None)
    if odd is not None:
        raise UserError(f"{path}: tasks: {odd}: begins names of folders; take letters, digits and . _ + - alone")
    joined = {name: _joined(values, entry, f"{path}: tasks: {name}") for name, entry in tasks.items()}
    return [_plan(v, f"{path}: {name}", scripts, task=name, equal_steps=equal) for name, v in joined.items()]


def named(value: Any) -> str:
    """What a value without a name of its own is called."""
    return value if isinstance(value, str) else json.dumps(value)


def matrix_of(value: Any, where: str) -> Matrix:
    """Options with their values: a list, names before values, or a single value.

    Raises:
        UserError: where an option has none, or two of one name, or there is no option.
    """
    matrix: Matrix = {}
    for option, values in _mapping(value, where).items():
        listed = values if isinstance(values, (list, dict)) else [values]
        if not listed:
            raise UserError(f"{where}: {option} has no values; list at least one")
        labelled = listed if isinstance(listed, dict) else {named(each): each for each in listed}
        matrix[option] = {named(label): each for label, each in labelled.items()}
        if len(matrix[option]) < len(labelled):  # such as 1 and "1"
            raise UserError(f"{where}: {option} has two values of one name among {', '.join(map(repr, labelled))}")
    if not matrix:
        raise UserError(f"{where}: names no option to vary; write `{{backbone: [resnet20, plain20]}}`")
    return matrix


def words(options: dict[str, Any]) -> tuple[str, ...]:
    """Options as a command line."""
    return tuple(f"--{name}={named(value)}" for name, value in options.items())


def filled(values: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Values with `{option}` in them replaced by that option's value, such as runs/{backbone}/model.safetensors.

    Raises:
        UserError: for a name that stands for none of them.
    """

    def fill(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UserError(f"{where}: {match[0]} stands for no option of the cell; it has {', '.join(values)}")
        return named(values[match[1]])

    return {name: re.sub(r"\{(\w+)\}", fill, v) if isinstance(v, str) else v for name, v in values.items()}


def known_options(script: str) -> list[str]:
    """The options of a training script."""
    return [field.name for group in COMMANDS[script].groups for field in fields(group)]


def _joined(common: dict[str, Any], own: Any, where: str) -> dict[str, Any]:
    """A task's entry, on top of what the experiment says of all tasks."""
    entry = _mapping(own, where)
    _refuse(set(entry) - set(OF_TASK), f"{where}: unknown key", f"a task has {', '.join(OF_TASK)}")
    if "runs" in common:
        raise UserError(f"{where}: the experiment has runs beside tasks; write them into the tasks")
    joined = {**common, **entry}
    for key in ("options", "matrix"):
        if key in common and key in entry:
            joined[key] = {**_mapping(common[key], f"{where}: {key}"), **_mapping(entry[key], f"{where}: {key}")}
    return joined


def _plan(values: dict[str, Any], where: str, scripts: Sequence[str], *, task: str = "", equal_steps: bool) -> Plan:
    script = str(values.get("script"))
    if script not in scripts:
        raise UserError(f"{where}: script is {script}; take {' or '.join(scripts)}")
    options = _mapping(values.get("options", {}), f"{where}: options")
    runs = values.get("runs", [])
    if not isinstance(runs, list):
        raise UserError(f"{where}: runs is not a list; write one `- option: [values]` entry per part of the matrix")
    entries = [("matrix", values["matrix"])] if "matrix" in values else []
    entries += [(f"runs[{number}]", entry) for number, entry in enumerate(runs)]
    if not entries:
        raise UserError(f"{where}: has neither matrix nor runs; write `matrix: {{backbone: [resnet20, plain20]}}`")
    groups = COMMANDS[script].groups
    options = renamed(options, groups)
    matrices = tuple(renamed(matrix_of(entry, f"{where}: {key}"), groups) for key, entry in entries)
    known = known_options(script)
    for key, names in [("options", options), *((key, m) for (key, _), m in zip(entries, matrices, strict=True))]:
        _refuse({*names} & {*OWN}, f"{where}: option", "the comparison sets it for each cell")
        _refuse({*names} & {"plugin"}, f"{where}: option", "a file cannot import code; give --plugin to compare.py")
        _refuse_unknown(names, known, f"{where}: {key}", script)
    return Plan(script, words(options), matrices, task, equal_steps)


def _refuse_unknown(names: Sequence[str] | dict[str, Any], known: Sequence[str], where: str, script: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            way_out = f"did you mean {near[0]}?" if near else f"see python tools/{script}.py --help"
            raise UserError(f"{where}: {name} is no option of {script}; {way_out}")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where}: holds no `name: value` lines; see --help for an example")
    return value


def _refuse(names: set[str], what: str, way_out: str) -> None:
    if names:
        raise UserError(f"{what} {', '.join(sorted(map(str, names)))}; {way_out}")


@dataclass
class CompareOptions:
    """The experiment.

    Args:
        output: folder of the runs, the table and the plot.
        experiment: its YAML file.
        script: instead of a file: the training script; what follows `--` on the command line goes to it.
        backbones: instead of a file: names with commas between.
        seeds: instead of a file: numbers with commas between.
        jobs: runs at a time, which share the cores and take a GPU each.
        rehearse: before anything is trained make a few steps of each cell, to see that it runs and what it takes.
        table_only: train nothing, write tables and pictures of what is there.
        x: what the curves are drawn over.
    """

    output: str
    experiment: str | None = field(default=None, metadata=POSITIONAL)
    script: Literal["train_cls", "train_det", "train_seg"] | None = None
    backbones: str | None = None
    seeds: str | None = None
    jobs: int = 1
    rehearse: bool = True
    table_only: bool = False
    x: Literal["epochs", "iterations"] = "epochs"

    def __post_init__(self) -> None:
        require(self.jobs > 0, "jobs", self.jobs, "must be above 0")
        named = [name for name in ("script", "backbones", "seeds") if getattr(self, name) is not None]
        require(
            not (self.experiment and named),
            "experiment",
            self.experiment,
            f"says it all; leave --{' --'.join(named)} out",
        )
        require(
            self.experiment or self.script, "script", self.script, "name a training script, or an experiment's file"
        )


def make_plans(options: CompareOptions, passed_on: Sequence[str], plugins: Sequence[str] = ()) -> list[Plan]:
    """Return the plans of the experiment's file, or of the command line.

    Args:
        passed_on: options of the training command, after `--`.
        plugins: values of --plugin, for all cells.

    Raises:
        UserError: for a file that is none, or lists that are empty.
    """
    plugin = words({"plugin": list(plugins)}) if plugins else ()
    if options.experiment:
        if passed_on:
            raise UserError(f"-- {passed_on[0]}: {options.experiment} says the options; write this one into it")
        plans = read_plans(Path(options.experiment), list(SCRIPT_TASKS))
        return [replace(plan, words=(*plan.words, *plugin)) for plan in plans]
    matrix: Matrix = {}
    for axis in ("backbone", "seed"):
        text = getattr(options, f"{axis}s")
        if text is not None:
            values = [word.strip() for word in str(text).split(",") if word.strip()]
            require(values, f"{axis}s", text, "name at least one, with commas between")
            matrix |= matrix_of({axis: values}, f"--{axis}s")
    require(matrix, "backbones", options.backbones, "name what to compare, with commas between; or give --seeds")
    return [Plan(str(options.script), (*passed_on, *plugin), (matrix,))]
