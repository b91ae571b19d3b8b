"""Writes and reads checkpoints. A file is written atomically, verified when it is read, and holds no pickle.

A file holds tensors as safetensors. Everything else is JSON in its header, with a SHA-256 of both. `save` writes under
a temporary name, waits until the data are on the disk, and renames the file. After a kill or a power cut at any moment
the name therefore holds either the old or the new file, never half a file. Older checkpoints stay beside the newest:
`last-1.safetensors` is one checkpoint older than `last.safetensors`, `last-2.safetensors` two.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from backbones.common.files import atomic_file, remove_leftovers
from backbones.errors import UserError

FORMAT = "resnet-transfer checkpoint 2"


def save(path: Path, state: object, *, keep: int = 0) -> None:
    """Write a tree of dicts, lists, tuples, tensors and JSON values. An existing file is replaced atomically.

    Args:
        keep: number of checkpoints to keep: `path` and `keep - 1` older ones; 0: leave older ones alone.

    Raises:
        UserError: the disk is full or the folder cannot be written; the previous file is unchanged.
    """
    # Separate tensors from JSON values, and take a checksum of both.
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_pack(state, tensors))
    header = {"format": FORMAT, "tree": tree, "sha256": _digest(tree, tensors)}
    write_safetensors(path, tensors, header, keep=keep)


def load(path: Path) -> Any:
    """Read a tree that `save` wrote. Its tensors are on the CPU.

    Raises:
        UserError: the file is missing, cut short, damaged, or not a checkpoint.
    """
    header, tensors = read_safetensors(path)
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: is not a checkpoint of this version; name a run folder's checkpoint/*.safetensors")
    tree = header.get("tree", "")
    if header.get("sha256") != _digest(tree, tensors):
        raise UserError(f"{path}: is damaged (its contents do not match its checksum); resume from another checkpoint")
    try:
        return _unpack(json.loads(tree), tensors)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
            f"{path}: is not a checkpoint of this version (its header cannot be read); resume from another checkpoint"
        ) from None


def generations(path: Path) -> list[Path]:
    """Return the checkpoint at `path` and its older versions that exist, newest first."""
    older = [file for file in path.parent.glob(f"{path.stem}-*{path.suffix}") if _age(file).isdecimal()]
    return [file for file in (path, *sorted(older, key=lambda file: int(_age(file)))) if file.is_file()]


class Whole(NamedTuple):
    """The checkpoint to continue from.

    Attributes:
        path: file of the checkpoint.
        after_nonfinite: whether a newer checkpoint exists but is not used, because its values are not finite.
    """

    path: Path
    after_nonfinite: bool


def newest_whole(path: Path) -> Whole:
    """Return the newest checkpoint at `path` that is undamaged and finite. Warn about skipped checkpoints.

    Raises:
        UserError: there is none.
    """
    problems: list[str] = []
    after_nonfinite = False
    for file in generations(path):
        try:
            broken = first_not_finite(load(file))
        except UserError as error:
            problems.append(str(error))
            continue
        if broken is not None:
            problems.append(f"{file}: {broken} is not finite")
            after_nonfinite = True
            continue
        for problem in problems:
            print(f"warning: {problem}; continuing from {file.name}, which is older", file=sys.stderr)
        return Whole(file, after_nonfinite)
    raise UserError(f"{path}: no undamaged checkpoint ({'; '.join(problems) or 'no such file'}); start a new run")


def first_not_finite(tree: object, name: str = "") -> str | None:
    """Return the name of the first tensor of a tree that holds a NaN or an infinity; None if all are finite.

    Args:
        tree: nested dicts, lists and tuples of tensors and other values. The others count as finite.
        name: name of the tree, which begins the returned name.
    """
    if isinstance(tree, torch.Tensor):
        return None if not tree.is_floating_point() or _is_finite(tree) else name
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    found = (first_not_finite(value, f"{name}.{key}" if name else str(key)) for key, value in entries)
    return next((each for each in found if each is not None), None)


def _is_finite(tensor: torch.Tensor) -> bool:
    """Return whether all numbers of a tensor are finite."""
    # A sum is finite only if all its terms are. It reads the tensor once, and the exact check several times.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def require_like(value: object, like: object, where: str) -> None:
    """Check that a tree has the same structure as an example: keys, lengths, shapes and types.

    Args:
        like: the example; a type matches any value of that type.
        where: name of the tree in the error message.

    Raises:
        UserError: naming the first part that differs.
    """
    if not _fits(value, like):
        raise UserError(f"{where}: does not fit this run; use a checkpoint of the same model, or start a new run")
    if isinstance(like, dict) and isinstance(value, dict):
        for key in like:
            require_like(value[key], like[key], f"{where}: {key}")
    elif isinstance(like, (list, tuple)) and isinstance(value, (list, tuple)):
        for index, (entry, like_entry) in enumerate(zip(value, like, strict=True)):
            require_like(entry, like_entry, f"{where}: {index}")


def _fits(value: object, like: object) -> bool:
    """Return whether a value has the type of `like`, and its shape, length or keys. Entries are not compared."""
    if isinstance(like, (type, UnionType)):
        return isinstance(value, like)
    if isinstance(like, dict):
        return isinstance(value, dict) and value.keys() == like.keys()
    if isinstance(like, (list, tuple)):
        return isinstance(value, type(like)) and type(value) is type(like) and len(value) == len(like)
    if isinstance(like, torch.Tensor):
        return isinstance(value, torch.Tensor) and (value.shape, value.dtype) == (like.shape, like.dtype)
    # A number may be whole here and fractional in the example.
    return type(value) is type(like) or {type(value), type(like)} == {int, float}


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], header: dict[str, str], *, keep: int = 0
) -> None:
    """Write tensors and a text header. An existing file is replaced atomically. One process at a time may write it.

    Args:
        keep: number of checkpoints to keep, as in `save`.

    Raises:
        UserError: the disk is full or the folder cannot be written; the previous file is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        with atomic_file(path) as temporary:
            # Write everything under a temporary name.
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=header)
            temporary.chmod(0o666 & ~_umask())  # safetensors makes it private to its owner
            # Wait for the disk, so that after a power cut the new name cannot hold an incomplete file.
            flush(temporary)
            # Give the older checkpoints their new names. The new one then gets the free name, in one atomic step.
            if keep > 1:
                _rename_older(path)
        # Remove the checkpoints that are too many, now that the new one is complete.
        for file in generations(path)[keep:] if keep else ():
            file.unlink()
        # Wait until the names are on the disk as well.
        flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({_reason(error)}); the previous file is unchanged") from None


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return the header and the tensors of a safetensors file.

    Raises:
        UserError: the file is missing or cut short.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: is not a complete safetensors file ({_reason(error)}); copy or write the file again"
        ) from None


def flush(path: Path) -> None:
    """Wait until a file's data, or a folder's entries, are on the disk, so that they survive a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_older(path: Path) -> None:
    """Rename `path` to `-1`, the old `-1` to `-2`, and so on, the oldest first.

    If the process is killed in between, the numbers have a gap, which the next call closes; no file is lost.
    """
    for age, file in reversed(list(enumerate(generations(path), start=1))):
        os.replace(file, path.with_name(f"{path.stem}-{age}{path.suffix}"))


def _age(file: Path) -> str:
    """Return the number at the end of an older checkpoint's file name, as text: "1" for last-1.safetensors."""
    return file.stem.rpartition("-")[2]


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())


def _umask() -> int:
    """Return the process's umask (permissions that new files do not get). It can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _pack(value: object, tensors: dict[str, torch.Tensor]) -> object:
    """Return a tree as JSON values; add its tensors to `tensors`.

    Dicts become lists of pairs, because JSON turns all keys into text.
    """
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


def _unpack(value: object, tensors: dict[str, torch.Tensor]) -> object:
    """Return the tree that `_pack` converted to JSON values. Malformed values raise ValueError."""
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
    """Return the SHA-256 of a tree's JSON text and its tensors' bytes."""
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
