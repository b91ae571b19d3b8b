"""Rewrites command-line arguments into the `--name=value` form that the parser reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import get_args, get_origin, get_type_hints

from backbones.common.options import former_names

# Metadata of a dataclass field whose value may stand without `--name`: `file: str = field(metadata=POSITIONAL)`.
POSITIONAL = {"positional": True}
# Metadata of a list field whose option may be given several times, one value each: `--plugin a.py --plugin b.py`.
REPEATABLE = {"repeatable": True}
HELP = ("--help", "-h")
LIST = "--list"  # prints the files that the package holds, for commands that can name one
WITHOUT_VALUE = (*HELP, "--print_config")  # besides switches, which `normalise_options` gives a value


def normalise_options(argv: Sequence[str], groups: Iterable[type]) -> list[str]:
    """Rewrite `--batch-size 8` as `--batch_size 8`, and a switch without a value, `--resume`, as `--resume=true`.

    Former names of options are replaced by the present names.
    """
    groups = list(groups)
    switches, now = _switches(groups), former_names(groups)
    normalised: list[str] = []
    for position, argument in enumerate(argv):
        if argument == "--":  # what follows is positional
            return [*normalised, *argv[position:]]
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            name = now.get(name, name)
            following = argv[position + 1] if position + 1 < len(argv) else ""
            if name in switches and not equals and following.lower() not in ("true", "false"):
                equals, value = "=", "true"
            argument = f"--{name}{equals}{value}"
        normalised.append(argument)
    return normalised


def name_positionals(argv: Sequence[str], groups: Iterable[type]) -> list[str]:
    """Rewrite positional arguments as options: `a b --score 0.3` becomes `--runs=["a", "b"] --score 0.3`.

    Fields marked `POSITIONAL` take the positional arguments in order: a field with a single value takes one, a list
    takes all that remain. The option of a list also takes several arguments: `--runs a b`.

    Args:
        argv: arguments as `normalise_options` returns them.

    Returns:
        The rewritten arguments. Positional arguments that no field takes stay as they are, for the parser to refuse.
    """
    single, several = positional_names(groups)
    if not single and not several:
        return list(argv)
    options, positionals = _split(argv, list_option=f"--{several}")
    missing = [name for name in single if last_value(options, name) is None]
    named = [f"--{name}={value}" for name, value in zip(missing, positionals, strict=False)]
    rest = positionals[len(named) :]
    if several and rest:
        named, rest = [*named, f"--{several}={json.dumps(rest)}"], []
    return [*named, *options, *rest]


def join_repeated(argv: Sequence[str], groups: Iterable[type]) -> list[str]:
    """Join the values of each `REPEATABLE` option into one list: `--plugin=["a.py", "b.py"]`.

    Args:
        argv: arguments as `normalise_options` returns them. A value in brackets is already a list.
    """
    repeatable = {field.name for group in groups for field in fields(group) if field.metadata.get("repeatable")}
    values: dict[str, list[str]] = {}
    others: list[str] = []
    remaining = list(argv)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            others += [argument, *remaining]
            break
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in repeatable or not (equals or remaining):
            others.append(argument)
            continue
        values.setdefault(name, []).extend(_listed(value if equals else remaining.pop(0)))
    return [*(f"--{name}={json.dumps(listed)}" for name, listed in values.items()), *others]


def positional_names(groups: Iterable[type]) -> tuple[list[str], str | None]:
    """Return the names of the positional fields with a single value, and the name of the positional list, or None."""
    single: list[str] = []
    several = None
    for group in groups:
        hints = get_type_hints(group)
        for name in (field.name for field in fields(group) if field.metadata.get("positional")):
            if any(get_origin(kind) is list for kind in (hints[name], *get_args(hints[name]))):
                several = name
            else:
                single.append(name)
    return single, several


def split_at_dashes(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Split arguments at the first bare `--`; what follows it belongs to another command.

    Args:
        argv: the arguments; absent: those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def config_first(argv: Sequence[str]) -> list[str]:
    """Move `--config FILE` to the front. The parser lets later arguments win, and options must win over the file."""
    files: list[str] = []
    others: list[str] = []
    remaining = list(argv)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--config" and remaining:
            files += [argument, remaining.pop(0)]
        else:
            (files if argument.startswith("--config=") else others).append(argument)
    return files + others


def last_value(argv: Sequence[str], name: str) -> str | None:
    """Return the last value that an option has on the command line, or None if the option is absent."""
    value = None
    for position, argument in enumerate(argv):
        if argument == f"--{name}" and position + 1 < len(argv):
            value = argv[position + 1]
        elif argument.startswith(f"--{name}="):
            value = argument.split("=", 1)[1]
    return value


def change_values(argv: Sequence[str], name: str, change: Callable[[str], str]) -> list[str]:
    """Return the arguments with `change` applied to every value of the option `name`, written as `--name=value`."""
    changed: list[str] = []
    remaining = list(argv)
    while remaining:
        argument = remaining.pop(0)
        if argument.startswith(f"--{name}="):
            argument = f"--{name}={change(argument.partition('=')[2])}"
        elif argument == f"--{name}" and remaining:
            argument = f"--{name}={change(remaining.pop(0))}"
        changed.append(argument)
    return changed


def _split(argv: Sequence[str], *, list_option: str) -> tuple[list[str], list[str]]:
    """Split arguments into options with their values, and positional arguments, which may follow a bare `--`."""
    options: list[str] = []
    positionals: list[str] = []
    remaining = list(argv)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            return options, positionals + remaining
        if argument == "-" or not argument.startswith("-"):
            positionals.append(argument)
        elif argument == list_option and remaining and not remaining[0].startswith(("[", "-")):
            continue  # its values follow as positional arguments; a value in brackets is the whole list
        else:
            options.append(argument)
            takes_next = argument.startswith("--") and "=" not in argument and argument not in WITHOUT_VALUE
            if takes_next and remaining:
                options.append(remaining.pop(0))
    return options, positionals


def _listed(value: str) -> list[str]:
    """Return the values of a JSON list; a value that is not a list is returned as a list of one."""
    try:
        listed = json.loads(value) if value.startswith("[") else [value]
    except ValueError:
        return [value]
    return [str(each) for each in listed]


def _switches(groups: Iterable[type]) -> set[str]:
    """Return the names of the options whose values are true or false."""
    return {name for group in groups for name, kind in get_type_hints(group).items() if kind is bool}
