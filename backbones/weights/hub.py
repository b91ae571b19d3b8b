"""Weights of ours in repositories of the Hugging Face hub: "hf:owner/name", or "hf:owner/name@revision"."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from backbones.errors import UserError

PREFIX = "hf:"
FILE, CARD = "model.safetensors", "README.md"
_PART = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")


def local(weights: Any) -> Any:
    """Weights as they are, but for "hf:owner/name", which becomes the file fetched from there.

    Raises:
        UserError: where it cannot be had.
    """
    if not (isinstance(weights, str) and weights.startswith(PREFIX)):
        return weights
    return str(fetch(weights.removeprefix(PREFIX), FILE))


def fetch(repository: str, file: str) -> Path:
    """A file of a repository "owner/name" or "owner/name@revision": the hub's own, or without network the cached one.

    Raises:
        UserError: no such repository, revision or file; neither the hub nor a cached file.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, revision = split(repository)
    options: dict[str, Any] = {"revision": revision, "endpoint": endpoint()}
    why = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            require_reachable()
            return Path(hf_hub_download(name, file, **options))
        except LocalEntryNotFoundError as error:  # the client's word for a hub that does not answer
            why = said(error.__cause__ or error)
        except EntryNotFoundError:
            raise UserError(
                f"{PREFIX}{repository}: has no file {file}; name a repository that tools/hub.py pushed"
            ) from None
        except Exception as error:
            if not is_network(error):
                raise
            if refused := refusal(error, f"{PREFIX}{repository}"):
                raise refused from None
            why = said(error)
    try:
        return Path(hf_hub_download(name, file, local_files_only=True, **options))
    except Exception:
        raise UserError(
            f"{PREFIX}{repository}: cannot fetch {file} ({why}), and it is not in {constants.HF_HUB_CACHE}; go on with "
            "a file fetched elsewhere"
        ) from None


def split(repository: str) -> tuple[str, str | None]:
    """Name and revision of "owner/name@revision".

    Raises:
        UserError: where it is no such name.
    """
    name, _, revision = repository.partition("@")
    if not _REPOSITORY.fullmatch(name) or ".." in name or (revision and not re.fullmatch(r"[\w./-]+", revision)):
        raise UserError(f"{repository!r}: no repository of the hub; expected owner/name or owner/name@revision")
    return name, revision or None


def endpoint() -> str:
    """Address of the hub: $HF_ENDPOINT, or the public one."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def refusal(error: Exception, where: str) -> UserError | None:
    """What the hub refused, in one line; None for a hub that could not be asked."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{where}: has no such revision")
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
        return UserError(
            f"{where}: there is no such repository, or your token does not open it (HF_TOKEN, or `hf auth login`)"
        )
    return None if status is None or status >= 500 else UserError(f"{where}: the hub refuses it (status {status})")


def is_network(error: Exception) -> bool:
    """Whether an error is of the connection or of the hub's client."""
    from backbones.weights.network import _is_network

    return _is_network(error)


def said(error: BaseException) -> str:
    """An error in one line, without whatever looks like a token."""
    from backbones.errors import first_line

    return re.sub(r"hf_\w+", "hf_***", first_line(error))


def require_reachable() -> None:
    """Raise an OSError, within seconds, where the hub does not answer; its client would go on trying for minutes."""
    from backbones.weights.network import _check_reachable

    _check_reachable(endpoint())
