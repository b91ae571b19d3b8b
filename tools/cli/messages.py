"""Turns the errors of the parser of command lines into messages of one line that say how to fix the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches

from tools.cli.arguments import positional_names

# The name of an option in a text. With underscores, as Python has it, or with dashes.
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_LISTS = {"int": "a list such as [1,2]", "float": "a list such as [0.5,1]", "str": "a list such as [a,b]"}


def parser_message(error: BaseException, groups: Iterable[type]) -> str:
    """Return the message of a parser's error as one line. It ends with what to do.

    Args:
        groups: the dataclasses of options.
    """
    groups = list(groups)
    text = _with_positionals(_plain_text(" ".join(str(error).split())), groups)
    near = _near_option(text, groups)
    return with_dashes(f"{text}; did you mean {near}?" if near else f"{text}; see --help")


def with_dashes(text: str) -> str:
    """Return a text in which the names of options have dashes, as in `--batch-size`."""
    return _OPTION.sub(lambda name: name[0].replace("_", "-"), text)


def _plain_text(text: str) -> str:
    """Return the parser's error message without its details on union types."""
    union = re.search(r'Parser key "(\w+)": .*Subtypes: \[(.*?)\] Errors.* Given value: (.*)', text)
    single = re.search(r'Parser key "(\w+)": Expected an? (.*?)\. Got value: (.*)', text)
    missing = re.search(r"the following arguments are required: (.*)", text)
    valueless = re.search(r"argument (--\w+)\S*: expected one argument", text)
    if missing:
        names = [f"--{name}" for name in missing[1].split(", ")]
        return f"{', '.join(names)}: missing; add {'it' if len(names) == 1 else 'them'} to the command line"
    if valueless:
        return f"{valueless[1]}: has no value; write one after it"
    if union:
        return f"--{union[1]} {union[3]}: expected {' or '.join(_kinds(union[2]))}"
    if single:
        kind = re.sub(r"<class '(\w+)'>", r"\1", single[2])
        if kind.startswith("typing.Literal["):
            kind = "one of " + kind.removeprefix("typing.Literal[").removesuffix("]").replace("'", "")
        return f"--{single[1]} {single[3]}: expected {kind}"
    return text


def _with_positionals(text: str, groups: Iterable[type]) -> str:
    """Return a text that names positional arguments as the usage line does: `SHELL`, not `--shell`."""
    single, several = positional_names(groups)
    names = {f"--{name}": name.upper() for name in [*single, *filter(None, [several])]}
    return _OPTION.sub(lambda found: names.get(found[0], found[0]), text)


def _kinds(subtypes: str) -> list[str]:
    """Return what the members of a union type accept, from the parser's text of them."""
    found = re.findall(r"<class '(\w+)'>|Literal\[(.*?)\]|list\[(\w+)\]", subtypes)
    return [
        _LISTS.get(each) or kind.replace("NoneType", "null") or words.replace("'", "") for kind, words, each in found
    ]


def _near_option(text: str, groups: Iterable[type]) -> str:
    """Return the option whose name is nearest to an unknown one in a message; "" if there is none."""
    unknown = re.search(r"unrecognized arguments: --([\w-]+)", text)
    names = [each.name for group in groups for each in fields(group)]
    near = get_close_matches(unknown[1].replace("-", "_"), names, 1) if unknown else []
    return f"--{near[0]}" if near else ""
