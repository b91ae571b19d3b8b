"""Print a script that completes the commands and options of resnet-transfer in bash, zsh or tcsh.

    resnet-transfer completion bash > ~/.local/share/bash-completion/completions/resnet-transfer
    resnet-transfer completion zsh > ~/.zfunc/_resnet-transfer      # with fpath+=~/.zfunc before compinit

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
    options = parse(CompletionGroups, description=__doc__, argv=argv).completion

    from tools.benchmarks.subcommands import BENCHMARKS
    from tools.cli.shells import completion_script  # imports every command

    print(completion_script(options.shell, {"benchmark": list(BENCHMARKS)}, _registered()))


def _registered() -> dict[str, list[str]]:
    """Return the project's own names for options that take a name, by the name of the option."""
    import backbones
    from detection.data.layouts.known import layouts
    from detection.necks import NECKS
    from segmentation.heads import HEADS

    ours = backbones.names("*")
    return {
        "backbone": ours,
        "backbones": ours,
        "pattern": ours,
        "neck": NECKS.names(),
        "head": HEADS.names(),
        "layout": [*(layout.name for layout in layouts()), "list"],
    }


if __name__ == "__main__":
    run(main)
