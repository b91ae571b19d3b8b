"""Push a run's weights and model card to a repository of the Hugging Face hub, or pull them from one.

    python tools/hub.py push --run runs/cls-20260101-120000 --repo owner/name --license mit
    python tools/hub.py pull --repo owner/name --output runs/theirs

`backbones.build("resnet18", weights="hf:owner/name")` and `classification.load("hf:owner/name")` pull by themselves.
The token is that of `hf auth login` or $HF_TOKEN; it is neither printed nor stored. Paths lose their folders in pushed
files. $HF_ENDPOINT names another hub.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse


@dataclass
class HubOptions:
    """The run or the output folder, and the repository on the hub.

    Args:
        command: push or pull.
        repo: repository, as owner/name; pull also accepts owner/name@revision.
        run: folder of the finished run to push, or its model.safetensors.
        license: licence of the pushed weights, as the hub spells it (mit, cc-by-4.0, ...).
        private: make a new repository private.
        output: folder to pull into.
        overwrite: replace existing files in the output folder.
    """

    command: Literal["push", "pull"] = field(metadata=POSITIONAL)
    repo: str
    run: str | None = None
    license: str = "unknown"
    private: bool = False
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.command == "push" and not self.run:
            raise UserError("--run is missing: push needs the folder of a finished run; add --run FOLDER")
        if self.command == "pull" and not self.output:
            raise UserError("--output is missing: pull needs a folder to write into; add --output FOLDER")


@dataclass
class HubCommandOptions:
    """The command's option groups."""

    hub: HubOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Push a run to the hub, or pull one, as the command line says."""
    options = parse(HubCommandOptions, description=__doc__, argv=argv).hub

    from tools.exports.hub import pull, push  # imports torch

    if options.run and options.command == "push":
        address = push(run=options.run, repository=options.repo, licence=options.license, private=options.private)
        print(f"pushed to {address}")
    elif options.output:
        folder = pull(repository=options.repo, output=options.output, overwrite=options.overwrite)
        print(f"weights and model card are in {folder}")


if __name__ == "__main__":
    run(main)
