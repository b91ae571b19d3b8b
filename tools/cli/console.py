"""The console command `resnet-transfer`, whose sub-commands are the commands in tools/.

    resnet-transfer train det --data coco      # the same code as python tools/train_det.py --data coco
    resnet-transfer --list                     # experiments and recipes that the package holds

A command is imported only when it is called, so that `resnet-transfer --help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name

from backbones import __version__
from backbones.errors import UserError
from tools.cli.arguments import HELP, LIST
from tools.cli.ending import run
from tools.cli.packaged import describe

PROGRAM = "resnet-transfer"
TOOLS = Path(__file__).resolve().parents[1]
# The words of each sub-command, and the command's file in tools/ without .py.
SUBCOMMANDS = {
    "train cls": "train_cls",
    "train det": "train_det",
    "train seg": "train_seg",
    "eval": "eval_coco",
    "predict": "predict",
    "export": "export",
    "demo": "demo",
    "report": "report",
    "compare": "compare",
    "rank": "rank_backbones",
    "check": "check_data",
    "convert": "convert_data",
    "backbones": "list_backbones",
    "hub": "hub",
    "benchmark": "benchmark",
    "analyse": "analyse_responses",
    "replay": "replay",
    "data shapes": "shapes",
    "data augmentations": "show_augmentations",
    "data chirps": "chirps",
    "data shards": "make_shards",
    "completion": "completion",
}


def main(argv: Sequence[str] | None = None) -> object:
    """Call the command that the first words name, with the remaining arguments.

    Raises:
        UserError: the words name no command.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in HELP:
        print(help_text())
    elif arguments[0] == "--version":
        print(f"{PROGRAM} {__version__}")
    elif arguments[0] == LIST:
        print(describe("recipes"), describe("experiments"), sep="\n")
    elif group := _help_of_group(arguments):
        print(group)
    else:
        words, rest = split_subcommand(arguments)
        sys.argv = [f"{PROGRAM} {words}", *rest]  # the name of the program in the help of the command
        return command(words)(rest)
    return None


def command(words: str) -> Callable[[Sequence[str]], object]:
    """Import a command and return its `main`.

    Args:
        words: the words of the sub-command, such as "train det".
    """
    return resolve_name(f"tools.{SUBCOMMANDS[words]}:main")


def split_subcommand(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Split arguments into the words of a sub-command and the arguments of its command.

    Raises:
        UserError: the first words name no command.
    """
    for count in (2, 1):
        if (words := " ".join(arguments[:count])) in SUBCOMMANDS:
            return words, list(arguments[count:])
    first = arguments[0]
    of_group = [words for words in SUBCOMMANDS if words.startswith(f"{first} ")]
    named = " ".join([first, *(word for word in arguments[1:2] if not word.startswith("-"))]) if of_group else first
    typed = " ".join(word for word in arguments[:2] if not word.startswith("-"))
    heads = get_close_matches(first, {words.split()[0] for words in SUBCOMMANDS}, 1)
    near = get_close_matches(typed, SUBCOMMANDS, 3, 0.7) + [words for words in SUBCOMMANDS if words.split()[0] in heads]
    near = of_group or list(dict.fromkeys(near)) or list(SUBCOMMANDS)
    raise UserError(f"{named}: is not a command; name one of: {', '.join(near)}; see {PROGRAM} --help")


def help_text(prefix: str = "") -> str:
    """Return the list of the sub-commands that begin with `prefix`, with the first line of each command's docstring."""
    lines = [
        f"usage: {PROGRAM} COMMAND [OPTIONS]",
        "",
        *(f"  {words:<18} {_first_line(file)}" for words, file in SUBCOMMANDS.items() if words.startswith(prefix)),
        "",
        f"{PROGRAM} COMMAND --help    prints the options of a command",
        f"{PROGRAM} --list            lists the packaged recipes and experiments",
        f"{PROGRAM} --version         prints the version",
    ]
    return "\n".join(lines)


def _help_of_group(arguments: Sequence[str]) -> str:
    """Return the help of `train --help` and `data --help`; "" for other arguments."""
    first = arguments[0]
    is_group = any(words.startswith(f"{first} ") for words in SUBCOMMANDS)
    asks = len(arguments) > 1 and arguments[1] in HELP
    return help_text(f"{first} ") if is_group and asks else ""


def _first_line(file: str) -> str:
    """Return the first line of a command's docstring without importing the command."""
    with (TOOLS / f"{file}.py").open(encoding="utf-8") as source:
        return source.readline().strip().lstrip("r").strip('"')


def start() -> None:
    """Run the console command; entry point of the distribution."""
    run(main)


if __name__ == "__main__":
    start()
