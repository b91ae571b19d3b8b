"""Takes the examples for `--help` from the docstring of a command."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_SCRIPT = re.compile(r"python tools/\w+\.py")


def examples_of(docstring: str) -> str:
    """Return the examples at the beginning of a docstring's text, under a heading; "" if it does not begin with any.

    The examples call the command as its user has called it: `resnet-transfer predict` for `python tools/predict.py`.

    Args:
        docstring: the text after the first line. Examples are a paragraph that is indented by four spaces.
    """
    paragraph = docstring.split("\n\n")[0].rstrip()
    if not paragraph.startswith("    "):
        return ""
    program = Path(sys.argv[0]).name
    called = f"python tools/{program}" if program.endswith(".py") else program
    scripts = _SCRIPT.findall(paragraph)  # the first is the command itself; others may come after it
    lines = [_as_called(line[4:], scripts[0], called) if scripts else line[4:] for line in paragraph.splitlines()]
    return "\n".join(["\nexamples:", *(f"  {line}" for line in lines), ""])


def _as_called(line: str, script: str, called: str) -> str:
    """Return an example with `called` instead of the script. Its comment stays where it is if there is room."""
    command = line.partition("  #")[0].rstrip()
    return f"{command.replace(script, called):<{len(command)}}{line[len(command) :]}"
