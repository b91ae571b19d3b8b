"""Checkpoints: one file each, written atomically, verified when read, without pickle.

A file holds the tensors as safetensors and everything else as JSON in its header, with a SHA-256 of both. It is
written under a temporary name, flushed to the disk and renamed, so that a kill at any moment leaves the file before
or the file after, never a torn one.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from backbones.errors import UserError

FORMAT = "resnet-transfer checkpoint 1"


def save(path: Path, state: Any) -> None:
    """Write a tree of dicts, lists, tuples, tensors and JSON values, replacing `path` atomically.

    Raises:
        UserError: where the disk is full or the folder cannot be written; the file before is whole then.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_pack(state, tensors))
    header = {"format": FORMAT, "tree": tree, "sha256": _digest(tree, tensors)}
    write_safetensors(path, tensors, header)


def load(path: Path) -> Any:
    """Read what `save` wrote; tensors arrive on the CPU.

    Raises:
        UserError: where the file is missing, torn, changed, or no checkpoint.
    """
    header, tensors = read_safetensors(path)
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version; name a run folder's checkpoint/*.safetensors")
    if header["sha256"] != _digest(header["tree"], tensors):
        raise UserError(f"{path}: damaged (its contents do not match its checksum); resume from another checkpoint")
    return _unpack(json.loads(header["tree"]), tensors)


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    """Write tensors and a text header under a temporary name, flush, and rename to `path`."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=header)
        temporary.chmod(0o666 & ~_umask())  # safetensors makes it private to its owner
        replace_durably(temporary, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error}); the file before is untouched") from None


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """The header and the tensors of a safetensors file.

    Raises:
        UserError: where the file is missing or torn.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from None


def replace_durably(temporary: Path, path: Path) -> None:
    """Rename a finished file over another so that a power cut leaves one of the two."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for a tree, its tensors moved into `tensors`; dicts become pairs, since JSON turns their keys to text."""
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().to("cpu", copy=True)  # a copy: safetensors refuses shared memory
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    return value


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    return {key: _unpack(item, tensors) for key, item in content}


def _digest(tree: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
