"""TODO-DOC tools/cli/words.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import get_type_hints


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


def _last_value(argv: Sequence[str], name: str) -> str | None:
    value = None
    for position, word in enumerate(argv):
        if word == f"--{name}" and position + 1 < len(argv):
            value = argv[position + 1]
        elif word.startswith(f"--{name}="):
            value = word.split("=", 1)[1]
    return value
