"""Downloads and verifies published weights of torchvision and timm, and stores them in the libraries' caches."""

from __future__ import annotations

import hashlib
import http.client
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from huggingface_hub import constants
from torch import Tensor, nn
from torchvision.models import get_model_weights

from backbones.errors import UserError, first_line
from backbones.weights.files import read_state
from backbones.weights.network import check_reachable, is_network_error, socket_timeout

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_ALTERNATIVES = "use weights=None, or weights=FILE with a file that was downloaded elsewhere"


class DownloadError(UserError):
    """A file of weights that cannot be downloaded.

    Attributes:
        failure: what cannot be downloaded, where to, and why, without the way out.
    """

    def __init__(self, message: str, failure: str) -> None:
        super().__init__(message)
        self.failure = failure


def torchvision_state(name: str, tag: str) -> dict[str, Tensor]:
    """Return published weights of a torchvision model.

    Args:
        name: a model of torchvision.models, such as "resnet50".
        tag: "imagenet" (IMAGENET1K_V1, or the model's default if it has no such weights) or a tag of torchvision.

    Raises:
        UserError: the tag does not exist, or the file is not available (see `fetch`).
    """
    return read_state(fetch(get_model_weights(name)[torchvision_tag(name, tag)].url, what=name))


def torchvision_tag(name: str, tag: str) -> str:
    """Return the tag in torchvision of the weights that `tag` names; "imagenet" names the default weights.

    Raises:
        UserError: torchvision has no such weights.
    """
    published = get_model_weights(name).__members__
    if tag == "imagenet" and published:
        tag = "IMAGENET1K_V1" if "IMAGENET1K_V1" in published else get_model_weights(name).DEFAULT.name
    if tag not in published:
        tags = ", ".join(published) or "none"
        raise UserError(f"{name}: torchvision has no weights {tag!r}; choose among {tags}, or give a file, or `none`")
    return tag


def fetch(url: str, *, what: str) -> Path:
    """Return the path of a file, downloaded from an address unless it is in torch.hub's cache.

    The file's name contains the start of its SHA-256 ("resnet18-f37072fd.pth"). A file with another hash is never
    returned. If several processes need a file at once, one downloads it and the others wait.

    Args:
        url: address of the file.
        what: name of the model, for the error.

    Raises:
        UserError: the network is not reachable (found out within seconds), or the hash is not the published one.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    match = re.search(r"-([a-f0-9]{8,64})\.", path.name)
    if match is None:
        raise UserError(
            f"{what}: the file name {path.name} contains no hash by which a download could be verified; "
            "download the file yourself and use weights=FILE"
        )
    if not path.exists():
        try:
            _download(url, path, match.group(1))
        except (OSError, http.client.HTTPException) as error:
            raise _no_network(what, path.name, path.parent, first_line(error)) from error
        except RuntimeError as error:  # torch.hub's error for a wrong hash; it keeps nothing of the file
            raise UserError(
                f"{what}: the download of {path.name} is damaged, or is not the published file "
                f"({first_line(error)}); try again, or {_ALTERNATIVES}"
            ) from error
    _verify(path, match.group(1))
    return path


def timm_pretrained(create: Callable[[], nn.Module], *, name: str) -> nn.Module:
    """Run `create`, which calls timm.create_model(..., pretrained=True), without a long wait if there is no network.

    The first attempt uses timm's cache and no network, so that a cached model builds at once. The second asks the hub,
    if it is reachable. `create` may therefore run twice.

    Args:
        create: builds the model and loads its weights through timm.
        name: the model's name, for the error.

    Raises:
        UserError: the weights are neither cached nor reachable.
    """

    def failed(error: Exception) -> UserError:
        why = "HF_HUB_OFFLINE is set" if offline else first_line(error)
        return _no_network(name, _timm_address(name), Path(constants.HF_HUB_CACHE), why)

    offline = constants.HF_HUB_OFFLINE
    for attempt in (_from_cache, _from_hub):
        try:
            return attempt(create)
        except Exception as error:
            if not is_network_error(error):
                raise
            if offline or attempt is _from_hub:
                raise failed(error) from error
    raise AssertionError("unreachable: the second attempt returns or raises")


def _from_cache(create: Callable[[], nn.Module]) -> nn.Module:
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True  # the client reads it at each request, and then uses its cache only
    try:
        with socket_timeout():
            return create()
    finally:
        constants.HF_HUB_OFFLINE = before


def _from_hub(create: Callable[[], nn.Module]) -> nn.Module:
    check_reachable(constants.ENDPOINT)
    with socket_timeout():
        return create()  # the hub's client locks its files itself


def timm_state(name: str, tag: str) -> dict[str, Tensor]:
    """Return published weights of a timm model, with the parameter names of the published file.

    Args:
        name: a timm model, without "timm/".
        tag: a tag of timm, or "imagenet" for the model's default weights.

    Raises:
        UserError: the tag does not exist, or the file is neither cached nor reachable.
    """
    import timm

    arch, config = name.split(".")[0], timm_config(name, tag)
    if config is None or not config.has_weights:
        tags = ", ".join(n.split(".", 1)[1] for n in timm.list_pretrained(f"{arch}.*")) or "none"
        raise UserError(f"timm/{name}: timm has no weights {tag!r}; choose among {tags}, or give a file, or `none`")
    if not config.hf_hub_id:
        return read_state(fetch(str(config.url), what=f"timm/{name}"))
    return _hub_state(name, config.hf_hub_id, config.hf_hub_filename)


def timm_config(arch: str, tag: str) -> PretrainedCfg | None:
    """Return timm's description of a model's weights, or None if the tag is unknown. "imagenet" is the default tag."""
    import timm

    try:
        return timm.models.get_pretrained_cfg(arch if tag == "imagenet" else f"{arch.split('.')[0]}.{tag}")
    except RuntimeError:  # timm's error for an unknown tag
        return None


def _hub_state(name: str, repository: str, filename: str | None) -> dict[str, Tensor]:
    repo, _, revision = repository.partition("@")
    # Repositories older than safetensors contain only the second file.
    files = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    try:
        return read_state(_hub_file(repo, files, revision or None))
    except Exception as error:
        if not is_network_error(error):
            raise
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first_line(error)
        raise _no_network(f"timm/{name}", f"{repo}/{files[0]}", Path(constants.HF_HUB_CACHE), why) from error


def _hub_file(repo: str, files: list[str], revision: str | None) -> str:
    """Return the path of the first cached file among `files`.

    If none is cached, download the first that the hub has.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for file in files:
        with suppress(EntryNotFoundError):
            return hf_hub_download(repo, file, revision=revision, local_files_only=True)
    if not constants.HF_HUB_OFFLINE:
        check_reachable(constants.ENDPOINT)
    for file in files[:-1]:
        with suppress(EntryNotFoundError):
            return hf_hub_download(repo, file, revision=revision)
    return hf_hub_download(repo, files[-1], revision=revision)


def _timm_address(name: str) -> str:
    """Return, for error messages, the hub repository or the file name of a timm model's weights."""
    import timm

    config = None
    with suppress(RuntimeError):
        config = timm.models.get_pretrained_cfg(name.removeprefix("timm/"))
    return (config and (config.hf_hub_id or str(config.url or "").rsplit("/", 1)[-1])) or "its weights"


def _download(url: str, path: Path, digest: str) -> None:
    # Check before locking: without a network all waiting processes fail together, not one after the other.
    check_reachable(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"), socket_timeout():
        if not path.exists():
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=True)


def _verify(path: Path, digest: str) -> None:
    """Check that a file's SHA-256 begins with the published digits."""
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
    except OSError as error:
        raise UserError(f"{path}: cannot read the cached weights ({first_line(error)}); remove the file") from error
    if not found.hexdigest().startswith(digest):
        raise UserError(
            f"{path}: its SHA-256 begins with {found.hexdigest()[: len(digest)]}, not with {digest}, so "
            "the file is damaged or not the published one; move the file away and run again"
        )


def _no_network(what: str, address: str, cache: Path, why: str) -> DownloadError:
    failure = f"cannot download {address} into {cache} ({why})"
    return DownloadError(f"{what}: {failure}; {_ALTERNATIVES}", failure)
