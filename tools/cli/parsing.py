"""Parses the command line of every command into typed option groups."""

from __future__ import annotations

import glob
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar, get_args, get_type_hints

import yaml

from backbones.common import plugins
from backbones.common.files import read_yaml
from backbones.common.options import former_names, renamed
from backbones.errors import UserError
from tools.cli.arguments import (
    HELP,
    LIST,
    change_values,
    config_first,
    join_repeated,
    last_value,
    name_positionals,
    normalise_options,
)
from tools.cli.examples import examples_of
from tools.cli.messages import parser_message, with_dashes
from tools.processes import environment
from tools.processes.failures import SharedError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from jsonargparse import ArgumentParser, Namespace

OptionGroups = TypeVar("OptionGroups")
Recipe = Callable[[Sequence[str]], Path | None]


@dataclass(frozen=True)
class FurtherValues:
    """Values of options that neither the command line nor `--config` gives, such as those of a weights file.

    Attributes:
        values: by the name of the option. They take precedence over the recipe.
        defaults: further values, which take precedence over the recipe, but never over `--config`.
        over_config: whether they take precedence over `--config` as well.
        source: where they come from, for messages.
    """

    values: Mapping[str, object] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    over_config: bool = False
    source: str = ""


class _HelpText(NamedTuple):
    """Texts for the help of a command: its first line, its examples, and the word of the sub-command, or ""."""

    description: str
    examples: str
    subcommand: str


Further = Callable[[Sequence[str]], FurtherValues]
_only_asked: ContextVar[bool] = ContextVar("_only_asked", default=False)


class _Asked(BaseException):
    """Ends a command whose option groups `options_of_command` asks for."""

    def __init__(self, options: type) -> None:
        super().__init__()
        self.options = options


def options_of_command(main: Callable[[Sequence[str]], object], argv: Sequence[str] = ()) -> type:
    """Return the dataclass of option groups that a command parses. The command ends before it does anything.

    Args:
        main: the command's function, which calls `parse`.
        argv: arguments without which the command does not reach `parse`, such as a sub-command.
    """
    token = _only_asked.set(True)
    try:
        main(list(argv))
    except _Asked as asked:
        return asked.options
    finally:
        _only_asked.reset(token)
    raise TypeError(f"{main}: does not call parse")


def parse(
    options: type[OptionGroups],
    *,
    description: str,
    argv: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    further: Further | None = None,
    listing: Callable[[], str] | None = None,
    config_file: Callable[[str], str] = str,
    subcommand: str = "",
) -> OptionGroups:
    """Parse the command line into a dataclass of option groups.

    Each field of `options` is itself a dataclass and becomes a group of flat options (`--lr`, not `--optim.lr`),
    whose help comes from its docstring. A value may come from several sources. In rising priority they are the
    defaults of the groups, the recipe, the further values, `--config FILE`, and the command line. Further values that
    are marked so take precedence over `--config`; a line on stderr names those that differ.

    A field with the metadata `arguments.POSITIONAL` also takes its value from arguments without an option name. A list
    with the metadata `arguments.REPEATABLE` has an option that may be given several times.

    Args:
        options: the dataclass of groups.
        description: docstring of the command. Its first line begins the help, and its examples, an indented paragraph
            after the first line, end it.
        argv: the arguments; absent: those of this process.
        recipe: returns the YAML file of defaults for a command line, or None for no file.
        further: returns further values for a command line.
        listing: returns the text that `--list` prints; None for commands without `--list`.
        config_file: returns the file that a value of `--config` names.
        subcommand: word that chose these options, such as the name of a benchmark; for the help.

    Raises:
        UserError: for an unknown option, a value of the wrong type or range, or a `--config` file that cannot be read.
            Every process of a machine raises it, and one of them prints it.
    """
    if _only_asked.get():
        raise _Asked(options)
    first, _, rest = description.partition("\n\n")
    if listing:
        first += f" {LIST} prints the names that the package holds."
        if LIST in (sys.argv[1:] if argv is None else argv):
            print(listing())
            raise SystemExit(0)
    try:
        arguments = change_values(sys.argv[1:] if argv is None else argv, "config", config_file)
        text = _HelpText(first, examples_of(rest), subcommand)
        return _parse(options, text=text, argv=arguments, recipe=recipe, further=further)
    except UserError as error:
        raise SharedError(str(error), is_reporter=environment.is_main_of_machine()) from None


def _parse(
    options: type[OptionGroups],
    *,
    text: _HelpText,
    argv: Sequence[str],
    recipe: Recipe | None,
    further: Further | None,
) -> OptionGroups:
    groups = get_type_hints(options)
    # Bring the arguments into the form `--name=value`, with the values of `--config` first.
    arguments = normalise_options(argv, groups.values())
    arguments = join_repeated(arguments, groups.values())
    arguments = config_first(name_positionals(arguments, groups.values()))
    config = last_value(arguments, "config")
    defaults = recipe(arguments) if recipe else None
    with ExitStack() as copies:
        # Read the files here as well, for error messages that name the file, and for former names of options.
        present = partial(_with_present_names, groups=list(groups.values()), copies=copies)
        arguments = change_values(arguments, "config", lambda file: present(file, "--config "))
        files = [present(str(defaults))] if defaults else []
        more = further(arguments) if further else FurtherValues()
        if more.defaults:
            files.append(_written(more.defaults, copies))
        if more.values:
            file = _written(more.values, copies)
            if more.over_config:
                arguments = _after_config(arguments, file, more)
            else:
                files.append(file)
        if any(argument in HELP for argument in arguments):
            _print_help(groups.values(), text, defaults=files, source=str(defaults or ""))
        values = _values(arguments, groups.values(), defaults=files)
    # No file may import code: its plugins must have been imported already, or be named on the command line.
    if values.get("plugin") and last_value(arguments, "plugin") is None:
        plugins.require(values["plugin"], where=config or str(defaults))
        values["plugin"] = []
    return options(**{name: _instance(group, values) for name, group in groups.items()})


def _print_help(groups: Iterable[type], text: _HelpText, *, defaults: Sequence[str], source: str) -> NoReturn:
    """Print the text of `--help` and end the command."""
    from tools.cli.help_page import help_page

    values: dict[str, object] = {}
    for file in defaults:
        values |= _read_config(Path(file))
    page = help_page(groups, description=text.description, subcommand=text.subcommand, defaults=values, source=source)
    print(with_dashes(page) + text.examples, end="")
    raise SystemExit(0)


def _values(arguments: Sequence[str], groups: Iterable[type], *, defaults: Sequence[str]) -> Namespace:
    """Return the values of all options, from the arguments and the files of defaults, of which later ones win."""
    from jsonargparse import ArgumentError  # slow to import

    parser = _parser(tuple(groups))
    parser.default_config_files = [glob.escape(file) for file in defaults]
    try:
        return parser.parse_args(list(arguments))
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(parser_message(error, groups)) from None


@cache
def _parser(groups: tuple[type, ...]) -> ArgumentParser:
    """Return a parser of the options of all groups, without its files of defaults."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    for group in groups:
        # Give jsonargparse types, not texts: for texts it runs the imports under TYPE_CHECKING, which load torch.
        group.__init__.__annotations__.update(get_type_hints(group))  # type: ignore[misc]
        parser.add_class_arguments(group)
    return parser


def _after_config(arguments: Sequence[str], file: str, further: FurtherValues) -> list[str]:
    """Add a file of options that takes precedence over `--config` but not over the command line.

    Print which values of `--config` are not used.

    Args:
        arguments: the command line, with the values of `--config` first, each as `--config=FILE`.
    """
    count = sum(argument.startswith("--config=") for argument in arguments)
    given: dict[str, Any] = {}
    for argument in arguments[:count]:
        given |= _read_config(Path(argument.partition("=")[2]))
    unused = {name: given[name] for name, value in further.values.items() if name in given and given[name] != value}
    replaced = [
        f"--{name} is {further.values[name]}, not {value}"
        for name, value in unused.items()
        if last_value(arguments, name) is None
    ]
    if replaced and environment.is_main():
        text = f"note: {further.source} takes precedence over --config: {', '.join(replaced)}"
        print(with_dashes(text), file=sys.stderr)
    return [*arguments[:count], f"--config={file}", *arguments[count:]]


def _with_present_names(file: str, option: str = "", *, groups: Sequence[type], copies: ExitStack) -> str:
    """Return a YAML file in which options have their present names: `file`, or a temporary copy.

    The copy is deleted when `copies` is closed.

    Raises:
        UserError: the file cannot be read, or holds a text that the parser would read as null, such as "---".
    """
    values = _read_config(Path(file), option)
    for name, value in values.items():
        if isinstance(value, str) and value.strip() and _is_null(value):
            raise UserError(
                f"{option}{file}: {name} is the quoted text {value!r}, which would be read as null; write "
                "null without quotes"
            )
    if not values.keys() & former_names(groups).keys():
        return file
    return _written(renamed(values, groups), copies)


def _written(values: Mapping[str, object], copies: ExitStack) -> str:
    """Return a YAML file of options that lives until `copies` is closed."""
    copy = Path(copies.enter_context(tempfile.TemporaryDirectory()), "options.yaml")
    copy.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
    return str(copy)


def _is_null(text: str) -> bool:
    """Return whether YAML reads a text, such as "~", as null."""
    try:
        return yaml.safe_load(text) is None
    except Exception:  # PyYAML raises errors of many kinds
        return False


def peek_option(argv: Sequence[str], name: str) -> Any:
    """Return an option's value before the command line is parsed, because the choice of a recipe depends on it.

    The value comes from the command line (as text) or else from the `--config` file; it is None if neither has it.
    """
    value = last_value(argv, name)
    config = last_value(argv, "config")
    return _read_config(Path(config)).get(name) if value is None and config is not None else value


def to_dict(options: DataclassInstance) -> dict[str, Any]:
    """Return the options of all groups as one flat dictionary. As YAML, `--config` can read it again."""
    return {
        field.name: getattr(group, field.name)
        for group in (getattr(options, entry.name) for entry in fields(options))
        for field in fields(group)
    }


def groups_of(options: DataclassInstance) -> list[type]:
    """Return the classes of the option groups."""
    return [type(getattr(options, entry.name)) for entry in fields(options)]


def _instance(group: type, values: Namespace) -> object:
    """Build one option group from the parsed values; the group's `__post_init__` checks them."""
    for name, kind in get_type_hints(group).items():
        if values[name] is None and type(None) not in get_args(kind):  # the parser accepts null for any option
            raise UserError(f"--{name.replace('_', '-')} null: expected a value; leave the option out for its default")
    return group(**{field.name: values[field.name] for field in fields(group)})


def _read_config(path: Path, option: str = "--config ") -> dict[str, Any]:
    values = read_yaml(path, name=f"{option}{path}")
    if not isinstance(values, dict):
        raise UserError(
            f"{option}{path}: holds a {type(values).__name__}; write one line `option: value` for each option"
        )
    return values
