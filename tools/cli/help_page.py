"""Writes the text that `--help` prints, from the docstrings of option groups.

The parser that reads the command line could write it too, but takes twice as long to import as all of the rest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from docstring_parser.google import parse as parse_docstring

from tools.cli.arguments import positional_names


class DescribedOption(NamedTuple):
    """An option of a command: name, type, default value (`MISSING` if it must be given) and text of the help."""

    name: str
    kind: object
    default: object
    text: str

    @property
    def is_closed(self) -> bool:
        """Whether the option has no other values than its choices, or null."""
        kinds = get_args(self.kind) if get_origin(self.kind) in (Union, UnionType) else (self.kind,)
        return all(each in (bool, NoneType) or get_origin(each) is Literal for each in kinds)

    def choices(self) -> list[str]:
        """Return the values that the option may have beside numbers and texts; [] if there are none."""
        if self.kind is bool:
            return ["true", "false"]
        kinds = (self.kind, *get_args(self.kind))
        return [str(value) for each in kinds if get_origin(each) is Literal for value in get_args(each)]


def described_options(group: type) -> Iterator[DescribedOption]:
    """Yield the options of a group, with the texts of its docstring and those of its base classes."""
    documented = [parse_docstring(kind.__doc__ or "").params for kind in reversed(group.__mro__[:-1])]
    texts = {each.arg_name: each.description or "" for params in documented for each in params}
    hints = get_type_hints(group)
    for each in fields(group):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        yield DescribedOption(each.name, hints[each.name], default, " ".join(texts.get(each.name, "").split()))


def help_page(
    groups: Iterable[type], *, description: str, defaults: Mapping[str, object], source: str, subcommand: str = ""
) -> str:
    """Return the text of `--help`, with underscores in the names of options.

    Args:
        groups: the dataclasses of options.
        defaults: values by the name of the option, in place of the defaults of the groups.
        source: the file of `defaults`; "" if there is none.
        subcommand: word after the name of the program; "" if there is none.
    """
    groups = list(groups)
    words = _positional_words(groups)
    named = f" Positional arguments: {' '.join(words)}" if words else ""
    usage = " ".join(filter(None, ["%(prog)s", subcommand, "[OPTIONS]", *words]))
    parser = argparse.ArgumentParser(usage=usage, description=description + named)
    parser.add_argument("--config", help="YAML file of options; the command line wins over it")
    parser.add_argument("--print_config", action="store_true", help="print all options as a YAML file and exit")
    for group in groups:
        title = (parse_docstring(group.__doc__ or "").short_description or group.__name__).rstrip(".")
        section = parser.add_argument_group(title)
        for option in described_options(group):
            _add(section, option._replace(default=defaults.get(option.name, option.default)))
    return parser.format_help() + (source and f"\nThe defaults above are those of {source}\n")


def _positional_words(groups: list[type]) -> list[str]:
    """Return the placeholders of the positional arguments; a single one that may be absent is in brackets."""
    single, several = positional_names(groups)
    needed = {each.name for group in groups for each in described_options(group) if each.default is MISSING}
    words = [name.upper() if name in needed else f"[{name.upper()}]" for name in single]
    return [*words, f"{several.upper()}..."] if several else words


def _add(section: argparse._ArgumentGroup, option: DescribedOption) -> None:
    """Add one option, with its values as the placeholder, or its type and default after its text."""
    default = "required" if option.default is MISSING else f"default: {_value_text(option.default)}"
    choices = option.choices() if option.is_closed else []
    notes = default if choices else f"type: {type_text(option.kind)}, {default}"
    section.add_argument(
        f"--{option.name}",
        metavar=f"{{{','.join(choices)}}}" if choices else None,
        help=f"{option.text} ({notes})".strip().replace("%", "%%"),
    )


def type_text(kind: object) -> str:
    """Return a type as the help shows it: "int | null", "list[str]"."""
    if kind is NoneType:
        return "null"
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(map(type_text, get_args(kind)))
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _value_text(value: object) -> str:
    """Return a value as one writes it on the command line; texts have no quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
