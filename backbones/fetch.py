"""Where weights come from: files on disk, torchvision's and timm's published ones, verified and cached once a machine."""

import hashlib
import pickle
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from backbones.errors import UserError

_TIMEOUT = 10.0  # seconds without a byte, after which a server counts as unreachable
_WRAPPERS = ("model_ema", "state_dict_ema", "state_dict", "model")


def read_state(path: Path) -> dict[str, Tensor]:
    """Entries of a .safetensors file or of a .pth one, which may wrap them ({"model": ...}).

    Raises:
        UserError: no such file, not a weights file, or a pickle that would run code.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; give an existing file, or weights='imagenet' or None")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _read_pickle(path)
    while isinstance(content, Mapping) and (
        key := next((w for w in _WRAPPERS if _is_mapping(content.get(w))), None)
    ):
        content = content[key]
    tensors = (
        {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    )
    if not tensors:
        raise UserError(
            f"{path}: holds no weights by name; expected a state dict, bare or under 'state_dict' or 'model'"
        )
    return tensors


def torchvision_state(arch: str, tag: str) -> dict[str, Tensor]:
    """Published weights of a torchvision net; "imagenet" is IMAGENET1K_V1 where that exists."""
    from torchvision.models import get_model_weights

    published = get_model_weights(arch)
    name = "IMAGENET1K_V1" if tag == "imagenet" else tag
    if tag == "imagenet" and name not in published.__members__ and published.__members__:
        name = published.DEFAULT.name
    if name not in published.__members__:
        raise UserError(
            f"{arch}: no weights {tag!r}; torchvision has {', '.join(published.__members__) or 'none'}; "
            "or give a file, or weights=None"
        )
    return read_state(fetch(published[name].url, net=arch))


def fetch(url: str, *, net: str) -> Path:
    """The file behind a torchvision address, from torch.hub's cache or else the network; its name holds its hash.

    Several processes that ask at once fetch once: the first holds a lock while the others wait for the file.

    Raises:
        UserError: no network, or a file (cached or sent) whose hash is not the published one.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[-1]
    match = re.search(r"-([a-f0-9]{8,})\.", path.name)
    digest = match.group(1) if match else None
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"), _socket_timeout():
                if not path.exists():
                    torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=True)
                    return path  # verified while it came in
    except RuntimeError as error:
        raise UserError(
            f"{net}: {path.name} came with another hash than published ({error}); {_ways_on()}"
        ) from error
    except OSError as error:
        raise UserError(
            f"{net}: cannot fetch {path.name} into {folder} ({_reason(error)}); {_ways_on()}"
        ) from error
    _verify(path, digest)
    return path


def timm_state(arch: str, tag: str) -> dict[str, Tensor]:
    """Published weights of a timm net, through huggingface_hub into its cache; "imagenet" is the net's default tag."""
    import timm

    name = arch if tag == "imagenet" else f"{arch.split('.')[0]}.{tag}"
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    if config is None or not config.has_weights:
        tags = [n.split(".", 1)[1] for n in timm.list_pretrained(f"{arch.split('.')[0]}.*")]
        raise UserError(
            f"timm/{arch}: no weights {tag!r}; timm has {', '.join(tags) or 'none'}; or give a file, or weights=None"
        )
    if config.hf_hub_id:
        return _hub_state(arch, config.hf_hub_id, config.hf_hub_filename)
    return read_state(fetch(config.url, net=f"timm/{arch}"))


def _hub_state(arch: str, repository: str, filename: str | None) -> dict[str, Tensor]:
    from huggingface_hub import constants

    repository, _, revision = repository.partition("@")
    # Repositories older than safetensors hold only the second.
    candidates = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    for name in candidates:
        try:
            path = _hub_file(repository, name, revision or None)
        except (
            Exception
        ) as error:  # the hub speaks through two HTTP libraries, so its errors have no common base
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _reason(error)
            where = f"{repository}/{name} into {constants.HF_HUB_CACHE}"
            raise UserError(f"timm/{arch}: cannot fetch {where} ({why}); {_ways_on()}") from error
        if path is not None:
            return read_state(path)
    raise UserError(f"timm/{arch}: {repository} holds none of {', '.join(candidates)}; {_ways_on()}")


def _hub_file(repository: str, name: str, revision: str | None) -> Path | None:
    """A file from huggingface_hub's cache or the network; None where the repository does not have it."""
    import huggingface_hub as hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    try:
        return Path(hub.hf_hub_download(repository, name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        # Without network the download would go on trying for most of a minute; this asks once.
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, name, revision=revision), timeout=_TIMEOUT)
        return Path(hub.hf_hub_download(repository, name, revision=revision))
    except RemoteEntryNotFoundError:
        return None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({_reason(error)}); fetch or save it again"
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's text is a page; the name of what it refused is all that helps.
        refused = re.search(r"GLOBAL ([\w.]+)|global:? ([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"{path}: refused, reading it would run code ({refused.group(1) or refused.group(2)}); "
                "save the state dict alone, best as safetensors"
            ) from error
        raise UserError(
            f"{path}: not a readable weights file ({_reason(error)}); fetch or save it again"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a readable weights file ({_reason(error)}); fetch or save it again"
        ) from error


def _verify(path: Path, digest: str | None) -> None:
    if digest is None:
        return
    with open(path, "rb") as file:
        found = hashlib.sha256()
        while chunk := file.read(1 << 20):
            found.update(chunk)
    if not found.hexdigest().startswith(digest):
        raise UserError(
            f"{path}: its SHA-256 begins with {found.hexdigest()[: len(digest)]}, not with {digest}, so it is damaged or "
            "not the published file; move it away and run again"
        )


@contextmanager
def _socket_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _ways_on() -> str:
    return "go on with weights=None, or with weights=FILE of a file fetched elsewhere"


def _reason(error: BaseException) -> str:
    """First line of an error, since the user gets one line in all."""
    text = str(getattr(error, "reason", None) or error).strip()
    return text.splitlines()[0].strip() if text else type(error).__name__
