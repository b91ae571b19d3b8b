"""The command line of every script: typed option groups in, one-line errors out."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from backbones.errors import UserError
from tools.cli.ending import _one_line
from tools.cli.words import _collected, _config_first, _last_value, _plain_words, _switches
from tools.processes import failures
from tools.processes.failures import SharedError

Options = TypeVar("Options")


def parse(
    options: type[Options],
    *,
    description: str,
    argv: Sequence[str] | None = None,
    recipe: Callable[[Sequence[str]], Path | None] | None = None,
    words: str = "",
) -> Options:
    """Read a dataclass of option groups from the command line.

    Each field of `options` is itself a dataclass, and becomes a group of flat options (`--lr`, not `--optim.lr`)
    whose help comes from its docstring. Values come, later ones winning, from the groups' defaults, the recipe,
    `--config FILE` and the command line.

    Args:
        recipe: given the command line, names the YAML file of defaults.
        words: the option, a list of texts, that takes the words that follow no option.

    Raises:
        UserError: for an unknown option, a value of the wrong type or range, or a `--config` that cannot be read. All
            processes of a machine meet it, one of them speaks.
    """
    try:
        return _parse(options, description=description, argv=argv, recipe=recipe, words=words)
    except UserError as error:
        raise SharedError(str(error), speaks=failures.is_first_of_machine()) from None


def _parse(
    options: type[Options],
    *,
    description: str,
    argv: Sequence[str] | None,
    recipe: Callable[[Sequence[str]], Path | None] | None,
    words: str,
) -> Options:
    from jsonargparse import ArgumentError, ArgumentParser

    groups = get_type_hints(options)
    argv = _plain_words(sys.argv[1:] if argv is None else argv, _switches(groups.values()))
    argv = _config_first(_collected(argv, words) if words else argv)
    config = _last_value(argv, "config")
    if config is not None:
        _read_config(Path(config))  # its own words for a broken file
    defaults = recipe(argv) if recipe else None
    if defaults is not None:
        _read_config(defaults, word="")
    parser = ArgumentParser(
        description=description,
        exit_on_error=False,
        default_config_files=[glob.escape(str(defaults))] if defaults else None,
    )
    parser.add_argument("--config", action="config", help="YAML file of options; the command line wins over it")
    for group in groups.values():
        parser.add_class_arguments(group)
    try:
        values = parser.parse_args(argv)
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(f"{_plain_text(error)}; see --help") from None
    return options(**{name: _instance(group, values) for name, group in groups.items()})


def option(argv: Sequence[str], name: str) -> Any:
    """Peek at one option, on the command line or else in the `--config` file, before the real parsing.

    A script picks its recipe with it.
    """
    value = _last_value(argv, name)
    config = _last_value(argv, "config")
    return _read_config(Path(config)).get(name) if value is None and config is not None else value


def to_dict(options: Any) -> dict[str, Any]:
    """The groups as one flat dictionary, ready for a YAML file that `--config` reads back."""
    return {
        field.name: getattr(group, field.name)
        for group in (getattr(options, entry.name) for entry in fields(options))
        for field in fields(group)
    }


def _plain_text(error: BaseException) -> str:
    """The parser's text, without the inner workings of a union of types."""
    text = _one_line(error)
    union = re.search(r'Parser key "(\w+)": .*Subtypes: \[(.*?)\] Errors.* Given value: (.*)', text)
    single = re.search(r'Parser key "(\w+)": Expected an? (.*?)\. Got value: (.*)', text)
    if union:
        kinds = [kind.replace("NoneType", "null") for kind in re.findall(r"<class '(\w+)'>", union[2])]
        return f"--{union[1]} {union[3]}: expected {' or '.join(kinds)}"
    if single:
        kind = re.sub(r"typing\.Literal|<class '(\w+)'>", r"\1", single[2])
        return f"--{single[1]} {single[3]}: expected {kind}"
    return text


def _instance(group: type, values: Any) -> Any:
    for name, kind in get_type_hints(group).items():
        if values[name] is None and type(None) not in get_args(kind):  # which the parser lets through
            raise UserError(f"--{name.replace('_', '-')} null: expected a value; leave the option out for its default")
    return group(**{field.name: values[field.name] for field in fields(group)})


def _read_config(path: Path, word: str = "--config ") -> dict[str, Any]:
    from backbones.common.files import read_yaml

    values = read_yaml(path, where=f"{word}{path}")
    if not isinstance(values, dict):
        raise UserError(f"{word}{path}: holds a {type(values).__name__}, not `option: value` lines")
    return values
