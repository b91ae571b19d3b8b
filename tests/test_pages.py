"""The commands on the pages: each command exists, and so do its options."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

from tools.cli import console
from tools.cli.parsing import parse

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = ("backbone", "neck", "head", "layout", "classes", "augmentation")  # of the plugins in EXTENDING.md
SHIPPED = ("classification/", "detection/", "segmentation/")  # folders whose files the pages name


class ParsedError(Exception):
    """Ends a command after its command line was parsed."""


def commands(page: Path) -> list[list[str]]:
    """Return the words of each indented line that runs one of `tools/*.py`; a final backslash continues a line.

    A sub-command of the console command stands for its script.
    """
    lines = re.sub(r" *\\\n *", " ", page.read_text(encoding="utf-8")).splitlines()
    found = [re.search(r"^    .*?(tools/\w+\.py.*)", line) for line in lines]
    words = [_words(match[1]) for match in found if match]
    called = [re.search(r"^    (?:docker run .*)?resnet-transfer ([^-.].*)", line) for line in lines]
    for match in called:
        if match:
            name, rest = console.split_subcommand(_words(match[1]))
            words.append([f"tools/{console.SUBCOMMANDS[name]}.py", *rest])
    return words


def _words(command: str) -> list[str]:
    """Split a command into words, without the shell's variables, redirections, and the quote that ends SLURM's."""
    command = re.split(r" [<>] ", command)[0]
    command = command.removesuffix("'") if command.count("'") % 2 else command
    return [word for word in shlex.split(command, comments=True) if not word.startswith("$")]


def test_the_pages_name_all_commands():
    named = {words[0] for page in PAGES for words in commands(page)}
    assert {f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py")} - named == {"tools/__init__.py"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_command_lines_of_a_page_are_legal(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = tmp_path / "config.yaml"
    config.write_text("{}")
    plugin = tmp_path / "plugin.py"
    plugin.write_text("")

    def parsed(*args: object, **kwargs: object) -> None:
        parse(*args, **kwargs)
        raise ParsedError

    for command, *words in commands(page):
        for word in words:
            assert not word.startswith(SHIPPED) or (ROOT / word).is_file(), f"{page.name}: {word} is missing"
        files = {
            "RUN/config.yaml": config,
            "runs/demo/config.yaml": config,
            **{f"my_{kind}.py": plugin for kind in KINDS},
        }
        module = importlib.import_module(f"tools.{Path(command).stem}")
        monkeypatch.setattr(module, "parse", parsed)
        with pytest.raises(ParsedError):
            module.main([str(files.get(word, word)) for word in words])
