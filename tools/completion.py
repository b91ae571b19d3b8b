"""Print a script that completes the commands and options of resnet-transfer in bash, zsh or tcsh.

    resnet-transfer completion bash > ~/.local/share/bash-completion/completions/resnet-transfer
    resnet-transfer completion zsh > ~/.zfunc/_resnet-transfer      # with fpath+=~/.zfunc before compinit
    python tools/completion.py bash

The script needs the extra `completion` (shtab) only when it is made, not when it completes. Make it again after an
update.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse


@dataclass
class CompletionOptions:
    """The shell to complete in.

    Args:
        shell: bash, zsh or tcsh.
    """

    shell: Literal["bash", "zsh", "tcsh"] = field(metadata=POSITIONAL)


@dataclass
class CompletionGroups:
    """The option groups of the command."""

    completion: CompletionOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Print the script."""
    options = parse(CompletionGroups, description=__doc__.splitlines()[0], argv=argv).completion

    from tools.benchmarks.subcommands import BENCHMARKS
    from tools.cli.shells import completion_script  # imports every command

    print(completion_script(options.shell, {"benchmark": list(BENCHMARKS)}))


if __name__ == "__main__":
    run(main)
