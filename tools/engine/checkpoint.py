"""Checkpoints: one file each, written atomically, verified when read, without pickle.

A file holds the tensors as safetensors and everything else as JSON in its header, with a SHA-256 of both. It is
written under a temporary name, flushed to the disk and renamed, so that a kill at any moment leaves the file before
or the file after, never a torn one. The files before it stay beside it: `last-1.safetensors` is one checkpoint older
than `last.safetensors`, `last-2.safetensors` another one.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from backbones.errors import UserError

FORMAT = "resnet-transfer checkpoint 2"


def save(path: Path, state: Any, *, keep: int = 0) -> None:
    """Write a tree of dicts, lists, tuples, tensors and JSON values, replacing `path` atomically.

    Args:
        keep: checkpoints of this name to keep: `path`, and beside it `keep - 1` older ones; 0 knows of none but `path`.

    Raises:
        UserError: where the disk is full or the folder cannot be written; the file before is whole then.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_pack(state, tensors))
    header = {"format": FORMAT, "tree": tree, "sha256": _digest(tree, tensors)}
    write_safetensors(path, tensors, header, keep=keep)


def load(path: Path) -> Any:
    """Read what `save` wrote; tensors arrive on the CPU.

    Raises:
        UserError: where the file is missing, torn, changed, or no checkpoint.
    """
    header, tensors = read_safetensors(path)
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version; name a run folder's checkpoint/*.safetensors")
    tree = header.get("tree", "")
    if header.get("sha256") != _digest(tree, tensors):
        raise UserError(f"{path}: damaged (its contents do not match its checksum); resume from another checkpoint")
    try:
        return _unpack(json.loads(tree), tensors)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{path}: not a checkpoint of this version (its tree cannot be read)") from None


def generations(path: Path) -> list[Path]:
    """The checkpoints of `path` that are there, from the newest to the oldest."""
    older = [file for file in path.parent.glob(f"{path.stem}-*{path.suffix}") if _age(file).isdecimal()]
    return [file for file in (path, *sorted(older, key=lambda file: int(_age(file)))) if file.is_file()]


def newest_whole(path: Path) -> Path:
    """The newest whole checkpoint among `generations(path)`; a damaged one is passed over with a line on stderr.

    Raises:
        UserError: where there is none.
    """
    damage: list[str] = []
    for file in generations(path):
        try:
            load(file)
        except UserError as error:
            damage.append(str(error))
            continue
        for text in damage:
            print(f"warning: {text}; going on from {file.name}, which is older", file=sys.stderr)
        return file
    raise UserError(f"{path}: no whole checkpoint ({'; '.join(damage) or 'no such file'}); start a new run")


def require_like(value: Any, like: Any, where: str) -> None:
    """Refuse a tree that is not built as an example is: other keys, lengths, shapes or types.

    Args:
        like: the example; a type stands for any value of it.
        where: what to call the tree.

    Raises:
        UserError: naming the first place that differs.
    """
    if isinstance(like, (type, UnionType)):
        fits = isinstance(value, like)
    elif isinstance(like, dict):
        fits = isinstance(value, dict) and value.keys() == like.keys()
    elif isinstance(like, (list, tuple)):
        fits = type(value) is type(like) and len(value) == len(like)
    elif isinstance(like, torch.Tensor):
        fits = isinstance(value, torch.Tensor) and (value.shape, value.dtype) == (like.shape, like.dtype)
    else:  # numbers may be whole where the example's happens not to be
        fits = type(value) is type(like) or {type(value), type(like)} == {int, float}
    if not fits:
        raise UserError(f"{where}: does not fit this run; take a checkpoint of the same net, or start a new run")
    if isinstance(like, (dict, list, tuple)):
        for key in like if isinstance(like, dict) else range(len(like)):
            require_like(value[key], like[key], f"{where}: {key}")


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str], *, keep: int = 0) -> None:
    """Write tensors and a text header under a temporary name, flush, and rename to `path`; `keep` is that of `save`."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=header)
        temporary.chmod(0o666 & ~_umask())  # safetensors makes it private to its owner
        flush(temporary)
        if keep > 1:
            _make_way(path)
        os.replace(temporary, path)
        for file in generations(path)[keep:] if keep else ():
            file.unlink()
        flush(path.parent)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({_reason(error)}); the file before is untouched") from None


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
        raise UserError(f"{path}: not a whole safetensors file ({_reason(error)})") from None


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: a power cut leaves them there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_way(path: Path) -> None:
    """Rename `path` to `-1`, what was `-1` to `-2`, ..., the oldest first.

    A kill on the way leaves a gap in the names, which the next time closes, and not one file less.
    """
    for age, file in reversed(list(enumerate(generations(path), start=1))):
        os.replace(file, path.with_name(f"{path.stem}-{age}{path.suffix}"))


def _age(file: Path) -> str:
    return file.stem.rpartition("-")[2]


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())


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
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
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
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    if kind == "dtype" and isinstance(dtype := getattr(torch, content, None), torch.dtype):
        return dtype
    raise ValueError(kind)


def _digest(tree: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
