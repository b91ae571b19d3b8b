"""The command line of every script: typed option groups in, one-line errors out."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from backbones.errors import UserError
from tools import failures
from tools.failures import SharedError
from tools.stopping import STATUS, Stopped

Options = TypeVar("Options")
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what the system says of a full disk, or of more than one's share


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


def _config_first(argv: Sequence[str]) -> list[str]:
    """`--config` before all else: the parser lets later words win, and options win over it wherever it stands."""
    files: list[str] = []
    others: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--config" and words:
            files += [word, words.pop(0)]
        else:
            (files if word.startswith("--config=") else others).append(word)
    return files + others


def split_words(options: type, argv: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """The words of a command line that are no options, such as files to read, and those that are.

    What follows a bare `--` is no option. An option that is not a switch takes the next word.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    alone = {"help", "print_config", *_switches(get_type_hints(options).values())}
    plain: list[str] = []
    given: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return plain + words, given
        if not word.startswith("--") and word != "-h":
            plain.append(word)
            continue
        given.append(word)
        is_switch = word.lstrip("-").replace("-", "_") in alone or word == "-h"
        if "=" not in word and words and (not is_switch or words[0].lower() in ("true", "false")):
            given.append(words.pop(0))
    return plain, given


def option(argv: Sequence[str], name: str) -> Any:
    """Peek at one option, on the command line or else in the `--config` file, before the real parsing.

    A script picks its recipe with it.
    """
    value = _last_value(argv, name)
    config = _last_value(argv, "config")
    return _read_config(Path(config)).get(name) if value is None and config is not None else value


def resumed_config(argv: Sequence[str], *, prefix: str) -> Path | None:
    """The options of the run that `--resume` goes on with, or None without that option or such a file.

    Args:
        prefix: of the run folders that a script names by itself; the newest is taken where no `--output` names one.
    """
    if str(option(argv, "resume")).lower() != "true":
        return None
    from tools.run_log import newest

    folder = option(argv, "output")
    config = (Path(folder) if folder else newest(prefix)) / "config.yaml"
    return config if config.is_file() else None


def named_recipe(argv: Sequence[str], folder: Path) -> Path | None:
    """The file of `--recipe` in `folder`: by default standard where `--data` names some, else shapes.

    None for an unknown name, which the parser refuses in its own words.
    """
    named = str(option(argv, "recipe") or "auto")
    if named == "auto":
        named = "standard" if option(argv, "data") else "shapes"
    path = folder / f"{named}.yaml"
    return path if path.is_file() else None


def run(main: Callable[[], object]) -> None:
    """Run a script's `main`: a mistake of the user, or a full disk, becomes one line on stderr and exit status 2.

    A training that was stopped by a signal, and can go on, ends with `stopping.STATUS`.
    """
    try:
        main()
    except UserError as error:
        failures.end(f"error: {_one_line(error)}", 2, speaks=not isinstance(error, SharedError) or error.speaks)
    except Stopped as stop:
        failures.end(str(stop), STATUS, speaks=failures.is_first())
    except KeyboardInterrupt as stop:
        failures.end(str(stop) or "interrupted", INTERRUPTED, speaks=failures.is_first())
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            where = error.filename or "a file"
            failures.end(f"error: {where}: cannot be written ({error.strerror}); make room", 2)
        failures.hand_over(error)
        raise


def to_dict(options: Any) -> dict[str, Any]:
    """The groups as one flat dictionary, ready for a YAML file that `--config` reads back."""
    return {
        field.name: getattr(group, field.name)
        for group in (getattr(options, entry.name) for entry in fields(options))
        for field in fields(group)
    }


def _switches(groups: Iterable[type]) -> set[str]:
    """Names of the options that are true or false."""
    return {field.name for group in groups for field in fields(group) if get_type_hints(group)[field.name] is bool}


def _plain_words(argv: Sequence[str], switches: set[str]) -> list[str]:
    """Let people write `--batch-size 8` and a bare `--resume` for `--batch_size=8` and `--resume=true`."""
    words = []
    for position, word in enumerate(argv):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            answer = argv[position + 1] if position + 1 < len(argv) else ""
            if name in switches and not equals and answer.lower() not in ("true", "false"):
                equals, value = "=", "true"
            word = f"--{name}{equals}{value}"
        words.append(word)
    return words


def _collected(argv: Sequence[str], name: str) -> list[str]:
    """The words that follow no option, as the value of one."""
    others: list[str] = []
    free: list[str] = []
    for position, word in enumerate(argv):
        before = argv[position - 1] if position else ""
        value = before.startswith("--") and "=" not in before and before != "--help"
        (others if word.startswith("-") or value else free).append(word)
    return [*others, f"--{name}={json.dumps(free)}"] if free else others


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


def _last_value(argv: Sequence[str], name: str) -> str | None:
    value = None
    for position, word in enumerate(argv):
        if word == f"--{name}" and position + 1 < len(argv):
            value = argv[position + 1]
        elif word.startswith(f"--{name}="):
            value = word.split("=", 1)[1]
    return value


def _read_config(path: Path, word: str = "--config ") -> dict[str, Any]:
    from tools.files import read_yaml

    values = read_yaml(path, where=f"{word}{path}")
    if not isinstance(values, dict):
        raise UserError(f"{word}{path}: holds a {type(values).__name__}, not `option: value` lines")
    return values


def _one_line(error: BaseException) -> str:
    # An error of a data worker arrives with the worker's traceback in its text.
    return " ".join(str(error).rsplit("UserError: ", 1)[-1].split())
