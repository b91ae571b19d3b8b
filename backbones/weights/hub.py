"""Our weights by name: "hf:owner/name" or "hf:owner/name@revision" of the Hugging Face hub, or a run folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants

from backbones.common.run_files import MODEL_FILE
from backbones.errors import UserError, first_line
from backbones.weights.files import is_run, run_weights
from backbones.weights.network import check_reachable, is_network_error
from backbones.weights.sources import is_path

PREFIX = "hf:"
FILE, CARD = MODEL_FILE, "README.md"
_PART = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
Weights = TypeVar("Weights")


def resolve(weights: Weights) -> Weights | str:
    """Return the weights file that "hf:owner/name" or a run folder refers to. Return any other value unchanged.

    The file of a repository is downloaded. Functions that read weights files know neither repositories nor run folders:
    call this once, where the user's value arrives.

    Raises:
        UserError: the file is not available, or a folder given by its path holds no trained model.
    """
    if isinstance(weights, str) and weights.startswith(PREFIX):
        return str(fetch(weights.removeprefix(PREFIX), FILE))
    if not isinstance(weights, (str, os.PathLike)):
        return weights
    folder = Path(weights)
    # A word, such as "imagenet", may be the name of a folder of images as well.
    return str(run_weights(folder)) if folder.is_dir() and (is_path(weights) or is_run(folder)) else weights


def fetch(repository: str, file: str) -> Path:
    """Download a file of a repository, or return the cached file if the hub is not reachable.

    Args:
        repository: "owner/name" or "owner/name@revision".
        file: name in the repository.

    Raises:
        UserError: the repository, revision or file does not exist, or neither the hub nor a cached file is available.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, revision = split(repository)
    why = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            check_reachable(endpoint())
            return Path(hf_hub_download(name, file, revision=revision, endpoint=endpoint()))
        except LocalEntryNotFoundError as error:  # the client's error for a hub that does not answer
            why = said(error.__cause__ or error)
        except EntryNotFoundError:
            raise UserError(
                f"{PREFIX}{repository}: has no file {file}; name a repository that tools/hub.py pushed"
            ) from None
        except Exception as error:
            if not is_network_error(error):
                raise
            if refused := refusal(error, f"{PREFIX}{repository}"):
                raise refused from None
            why = said(error)
    try:
        return Path(hf_hub_download(name, file, revision=revision, endpoint=endpoint(), local_files_only=True))
    except Exception:
        raise UserError(
            f"{PREFIX}{repository}: cannot download {file} ({why}), and it is not in the cache "
            f"{constants.HF_HUB_CACHE}; download the file on another machine and give its path"
        ) from None


def split(repository: str) -> tuple[str, str | None]:
    """Split "owner/name@revision" into repository name and revision, which may be None.

    Raises:
        UserError: the text is no such name.
    """
    name, _, revision = repository.partition("@")
    if not _REPOSITORY.fullmatch(name) or ".." in name or (revision and not re.fullmatch(r"[\w./-]+", revision)):
        raise UserError(
            f"{repository!r}: is not the name of a repository on the hub; write owner/name or owner/name@revision"
        )
    return name, revision or None


def endpoint() -> str:
    """Return the address of the Hugging Face hub: $HF_ENDPOINT, or https://huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def refusal(error: Exception, where: str) -> UserError | None:
    """Return the UserError for a request that the hub refused, or None if the hub did not answer."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{where}: the repository has no such revision; check the text after the @")
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
        return UserError(
            f"{where}: there is no such repository, or your token gives no access to it; check the name, and set "
            "HF_TOKEN or log in with `hf auth login`"
        )
    return (
        None
        if status is None or status >= 500
        else UserError(
            f"{where}: the hub refused the request (HTTP status {status}); try again later, or download the file "
            "in another way and give its path"
        )
    )


def said(error: BaseException) -> str:
    """Return an error's message in one line, with access tokens removed."""
    return re.sub(r"hf_\w+", "hf_***", first_line(error))
