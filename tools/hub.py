"""Bring a run's weights and card to a repository of the Hugging Face hub, and back.

    python tools/hub.py push --run runs/cls-20260101-120000 --repo owner/name --license mit
    python tools/hub.py pull --repo owner/name --output runs/theirs

`backbones.build("resnet18", weights="hf:owner/name")` and `classification.load("hf:owner/name")` fetch by themselves.
The token is the one of `hf auth login` or $HF_TOKEN; it is neither printed nor kept. Paths lose their folders in what
is pushed. $HF_ENDPOINT names another hub.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.files import atomic_file
from backbones.errors import UserError
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse


@dataclass
class HubOptions:
    """What goes where.

    Args:
        command: push or pull.
        repo: owner/name; pull takes owner/name@revision as well.
        run: folder of a finished run, or its model.safetensors, to push.
        license: of the pushed weights, as the hub spells it (mit, cc-by-4.0, ...).
        private: make a new repository private.
        output: folder to pull into.
        overwrite: replace what is there in `output`.
    """

    command: Literal["push", "pull"] = field(metadata=POSITIONAL)
    repo: str
    run: str | None = None
    license: str = "unknown"
    private: bool = False
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        pushes = self.command == "push"
        if pushes and not self.run:
            raise UserError("--run is missing: push needs the folder of a finished run, as --run FOLDER")
        if not pushes and not self.output:
            raise UserError("--output is missing: pull needs a folder to write into, as --output FOLDER")


@dataclass
class Options:
    """The script's option groups."""

    hub: HubOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Push or pull."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv).hub
    if options.command == "push":
        print(f"pushed to {push(options)}")
    else:
        print(f"weights and card are in {pull(options)}")


def push(options: HubOptions) -> str:
    """One commit with weights and card, in a repository that is made where there is none; its address.

    Raises:
        UserError: no run, no token, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from backbones.trained import find
    from backbones.weights import hub, network
    from tools.exports import model_card

    trained = find(str(options.run))
    name, revision = hub.split(options.repo)
    if revision:
        raise UserError(f"--repo {options.repo}: push goes to the repository's head; leave @{revision} out")
    text = model_card.card(trained, repository=name, licence=options.license, results=_results(trained.path))
    api = HfApi(endpoint=hub.endpoint())
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / hub.FILE
        model_card.write_public(trained, weights)
        try:
            network.check_reachable(hub.endpoint())
            api.create_repo(name, private=options.private or None, exist_ok=True)
            parts = [CommitOperationAdd(hub.FILE, weights), CommitOperationAdd(hub.CARD, text.encode())]
            api.create_commit(name, parts, commit_message=f"Weights and card of {trained.task}")
        except Exception as error:
            raise _refused(error, options.repo) from None
    return f"{hub.endpoint()}/{name}"


def pull(options: HubOptions) -> Path:
    """Weights and card in a folder; its path.

    Raises:
        UserError: where they cannot be had, are no net of ours, or something is in their place.
    """
    from backbones.trained import find
    from backbones.weights import hub

    folder = Path(str(options.output))
    taken = next((folder / name for name in (hub.FILE, hub.CARD) if (folder / name).exists()), None)
    if taken and not options.overwrite:
        raise UserError(f"--output {taken}: exists already; name another folder or pass --overwrite")
    files = {name: hub.fetch(options.repo, name) for name in (hub.FILE, hub.CARD)}
    find(files[hub.FILE])  # refuses what is not ours, or not whole
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in files.items():
            with atomic_file(folder / name, name=f"--output {folder / name}") as temporary:
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror})") from None
    return folder


def _results(weights: Path) -> dict[str, Any]:
    """The run's figures, which lie beside its weights."""
    folder = weights.parent.parent if weights.parent.name == "checkpoint" else weights.parent
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _refused(error: Exception, repo: str) -> Exception:
    """What the user gets to read: never a token, nor a page."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    from backbones.weights import hub, network

    if isinstance(error, LocalTokenNotFoundError):
        return UserError(f"--repo {repo}: no token; log in by `hf auth login`, or set HF_TOKEN")
    if not network.is_network_error(error):
        return error
    why = hub.said(error)
    return hub.refusal(error, f"--repo {repo}") or UserError(f"--repo {repo}: the hub cannot be reached ({why})")


if __name__ == "__main__":
    run(main)
