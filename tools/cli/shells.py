"""Makes the script with which a shell completes the commands and options of `resnet-transfer`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from backbones.common.packages import optional
from tools.cli.arguments import LIST, positional_names
from tools.cli.console import PROGRAM, SUBCOMMANDS, command
from tools.cli.help_page import described_options
from tools.cli.packaged import packaged
from tools.cli.parsing import options_of_command


def completion_script(shell: str, nested: Mapping[str, Sequence[str]], registered: Mapping[str, Sequence[str]]) -> str:
    """Return the script of a shell: bash, zsh or tcsh.

    Args:
        nested: sub-commands of a command, such as those of "benchmark".
        registered: names to complete the values of options with, by the name of the option, such as "backbone".

    Raises:
        UserError: shtab is not installed.
    """
    shtab = optional("shtab", extra="completion")
    return shtab.complete(_parser(nested, Values(shtab.FILE, registered)), shell)


class Values(NamedTuple):
    """The files and names that complete the values of options.

    Attributes:
        files: shtab's mark of a value that is completed as a file.
        registered: names by the name of the option.
    """

    files: Mapping[str, str]
    registered: Mapping[str, Sequence[str]]


def _parser(nested: Mapping[str, Sequence[str]], values: Values) -> argparse.ArgumentParser:
    """Return a parser with all commands and options, for completion only."""
    parser = argparse.ArgumentParser(prog=PROGRAM)
    for option in ("--version", LIST):
        parser.add_argument(option, action="store_true")
    first = parser.add_subparsers()
    groups: dict[str, Any] = {}
    for words in SUBCOMMANDS:
        head, _, tail = words.partition(" ")
        if tail and head not in groups:
            groups[head] = first.add_parser(head, help=head).add_subparsers()
        if words in nested:
            below = first.add_parser(words, help=words).add_subparsers()
            for name in nested[words]:
                _add_options(below.add_parser(name, help=name), options_of_command(command(words), [name]), values)
        else:
            own = groups[head].add_parser(tail, help=words) if tail else first.add_parser(words, help=words)
            _add_options(own, options_of_command(command(words)), values)
            if words == "compare":
                own.add_argument("experiment", choices=[path.stem for path in packaged("experiments")])
    return parser


def _add_options(parser: argparse.ArgumentParser, options: type, values: Values) -> None:
    """Add the options of a command, with dashes, their choices and the first sentence of their help."""
    groups = list(get_type_hints(options).values())
    single, several = positional_names(groups)
    for option in (each for group in groups for each in described_options(group)):
        choices = option.choices() or list(values.registered.get(option.name, ()))
        text = option.text.partition(";")[0].replace("%", "%%")
        added = parser.add_argument(f"--{option.name.replace('_', '-')}", choices=choices or None, help=text)
        if not choices and any(each in (str, Path, list[str]) for each in (option.kind, *get_args(option.kind))):
            added.complete = values.files  # type: ignore[attr-defined]  # as shtab reads it
        if option.name in single and choices:
            parser.add_argument(option.name, choices=choices)
        elif option.name == several or (option.name in single and option.default is MISSING):  # names of files
            parser.add_argument(option.name, nargs="*").complete = values.files  # type: ignore[attr-defined]
    config = parser.add_argument("--config", help="YAML file of options")
    config.complete = values.files  # type: ignore[attr-defined]
