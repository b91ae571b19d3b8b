"""Reading weights files: safetensors, and pickles through torch's restricted reader, which runs no code."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from backbones.common.files import JsonObject
from backbones.errors import UserError, first_line

# Keys under which training programs keep the state dict. Averaged weights come first: those programs evaluate them.
_WRAPPERS = ("model_ema", "state_dict_ema", "state_dict", "model")
# Prefixes that DistributedDataParallel, torch.compile and other programs add to every key.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
# torch.optim.swa_utils.AveragedModel stores its number of updates beside the weights.
_COUNTERS = ("n_averaged",)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the entries of a .safetensors file or of a pickle (.pth, .pt, .bin) to the CPU.

    The state dict may lie under "model_ema", "state_dict_ema", "state_dict" or "model"; the first of these is used. A
    prefix that all entries have in common, such as "module.", is removed.

    Raises:
        UserError: the file does not exist, is no weights file, or is a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; give an existing file, or weights='imagenet' or None")
    content: object = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    # Unwrap a checkpoint until the state dict itself is left.
    while isinstance(content, Mapping) and (wrapper := _wrapper(content)):
        content = content[wrapper]
    entries = content.items() if isinstance(content, Mapping) else ()
    state = {k: v for k, v in entries if isinstance(k, str) and isinstance(v, Tensor) and k not in _COUNTERS}
    if not state:
        raise UserError(
            f"{path}: holds no state dict; give a file with a state dict, bare or under the key 'state_dict' or 'model'"
        )
    return _without_shared_prefix(state)


def read_meta(path: str | os.PathLike[str]) -> JsonObject:
    """Read the header of one of our own weights files: task, classes, input and options of its model.

    The result is empty for any other file, and for words such as "imagenet".
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("meta", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}  # reading the tensors reports what is wrong with the file
    return meta if isinstance(meta, dict) else {}


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, first_line(error)) from error


def _wrapper(content: Mapping[str, object]) -> str | None:
    """Return the key under which a checkpoint keeps its state dict, or None if `content` is no such checkpoint."""
    return next((w for w in _WRAPPERS if isinstance(content.get(w), Mapping) and content[w]), None)


def _without_shared_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # Remove a prefix only if all entries have it: a detector's "backbone." must stay beside its "rpn.".
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), None):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _load_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := _refused_name(str(error)):
            raise UserError(
                f"{path}: refused, because reading this pickle would run code ({refused}); save only the state dict, "
                "preferably as safetensors"
            ) from error
        raise _unreadable(path, "not a pickle of weights") from error
    except Exception as error:  # torch's reader raises many kinds of exceptions on a damaged file
        raise _unreadable(path, first_line(error)) from error


def _refused_name(text: str) -> str | None:
    """Return the class or function that torch refused to load, found in its long message."""
    match = re.search(r"(?:GLOBAL|[Cc]lass|function)\s+`?([A-Za-z_][\w.]*\.\w+)", text)
    return match.group(1) if match else None


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(f"{path}: not a readable weights file ({why}); download or save it again")
