"""Pushes weights and model cards of runs to repositories of the Hugging Face hub, and pulls them from there."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import LocalTokenNotFoundError

from backbones.common.files import atomic_file
from backbones.common.run_files import RESULTS_FILE
from backbones.errors import UserError
from backbones.trained import find, find_weights
from backbones.weights import hub
from backbones.weights.network import check_reachable, is_network_error
from tools.exports.model_card import model_card, write_public


def push(*, run: str, repository: str, licence: str, private: bool) -> str:
    """Push a run's weights and model card in one commit. The repository is created if it does not exist.

    Args:
        run: folder of a finished run, or its model.safetensors.
        repository: "owner/name".
        licence: licence of the weights, as the hub spells it.
        private: make a new repository private.

    Returns:
        The address of the repository.

    Raises:
        UserError: there is no such run or no token, or the hub refuses.
    """
    trained = find_weights(run)
    name, revision = hub.split(repository)
    if revision:
        raise UserError(
            f"--repo {repository}: push writes to the default branch of the repository; leave @{revision} out"
        )
    text = model_card(trained, repository=name, licence=licence, results=_results(trained.path))
    api = HfApi(endpoint=hub.endpoint())
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / hub.FILE
        write_public(trained, weights)
        try:
            check_reachable(hub.endpoint())
            api.create_repo(name, private=private or None, exist_ok=True)
            parts = [CommitOperationAdd(hub.FILE, weights), CommitOperationAdd(hub.CARD, text.encode())]
            api.create_commit(name, parts, commit_message=f"Weights and card of {trained.task}")
        except Exception as error:
            raise _push_error(error, repository) from None
    return f"{hub.endpoint()}/{name}"


def pull(*, repository: str, output: str, overwrite: bool) -> Path:
    """Pull weights and model card into a folder.

    Args:
        repository: "owner/name" or "owner/name@revision".
        output: the folder; created if it does not exist.
        overwrite: replace files of the same names.

    Returns:
        The folder.

    Raises:
        UserError: the files are not available, are not a model of this project, or would replace other files.
    """
    folder = Path(output)
    existing = next((folder / name for name in (hub.FILE, hub.CARD) if (folder / name).exists()), None)
    if existing and not overwrite:
        raise UserError(f"--output: {existing} exists already; name another folder or pass --overwrite")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is not a folder; name another")
    files = {name: hub.fetch(repository, name) for name in (hub.FILE, hub.CARD)}
    find(files[hub.FILE])  # refuses a file that is incomplete or no model of this project
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in files.items():
            with atomic_file(folder / name, name=f"--output {folder / name}") as temporary:
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror}); name another folder") from None
    return folder


def _results(weights: Path) -> dict[str, object]:
    """Return the results.json of the run to which a weights file belongs; {} if there is none."""
    folder = weights.parent.parent if weights.parent.name == "checkpoint" else weights.parent
    try:
        found = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _push_error(error: Exception, repository: str) -> Exception:
    """Return the error to raise after a failed push: a one-line user error without the token, or the error itself."""
    where = f"--repo {repository}"
    if isinstance(error, LocalTokenNotFoundError):
        return UserError(f"{where}: no access token was found; log in with `hf auth login`, or set HF_TOKEN")
    if not is_network_error(error):
        return error
    return hub.refusal(error, where) or UserError(
        f"{where}: the hub cannot be reached ({hub.said(error)}); check the network, and try again"
    )
