"""Reading weights files: safetensors, or pickles through torch's restricted reader, which runs no code."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.errors import UserError, first_line
from backbones.weights.hub import local

# Keys under which training scripts keep the state dict; the averaged weights are the ones they evaluate.
_WRAPPERS = ("model_ema", "state_dict_ema", "state_dict", "model")


_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


# torch.optim.swa_utils.AveragedModel counts its updates in an entry beside the net's.
_COUNTERS = ("n_averaged",)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Entries of a .safetensors file or of a pickle (.pth, .pt, .bin), on the CPU.

    A wrapping {"state_dict": ...}, {"model": ...} or {"model_ema": ...} is opened (the averaged one first) and a
    prefix such as "module." that all entries share is removed.

    Raises:
        UserError: no such file, not a weights file, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; give an existing file, or weights='imagenet' or None")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    while wrapper := _wrapper(content):
        content = content[wrapper]
    entries = content.items() if isinstance(content, Mapping) else ()
    state = {k: v for k, v in entries if isinstance(k, str) and isinstance(v, Tensor) and k not in _COUNTERS}
    if not state:
        raise UserError(
            f"{path}: holds no weights by name; expected a state dict, bare or under 'state_dict' or 'model'"
        )
    return _without_shared_prefix(state)


def read_meta(weights: str | os.PathLike[str]) -> dict[str, Any]:
    """What one of our own files says of itself: classes, input, options; empty for any other file."""
    from safetensors import SafetensorError, safe_open

    path = Path(local(weights))
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("meta", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}  # whoever reads the tensors says what is wrong with the file
    return meta if isinstance(meta, dict) else {}


def _wrapper(content: Any) -> str | None:
    """Key under which the state dict lies, where `content` is a whole checkpoint."""
    if not isinstance(content, Mapping):
        return None
    return next((w for w in _WRAPPERS if isinstance(content.get(w), Mapping) and content[w]), None)


def _without_shared_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # Only what all entries share: a detector's "backbone." must stay beside its "rpn.".
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), None):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := _refused(str(error)):
            raise UserError(
                f"{path}: refused, reading it would run code ({refused}); "
                "save the state dict alone, best as safetensors"
            ) from error
        raise _unreadable(path, "no pickle of weights") from error
    except Exception as error:  # torch's reader lets any exception out on a damaged file
        raise _unreadable(path, error) from error


def _refused(text: str) -> str | None:
    """What torch refused to import or call; the rest of its text is a page of advice."""
    match = re.search(r"(?:GLOBAL|[Cc]lass|function)\s+`?([A-Za-z_][\w.]*\.\w+)", text)
    return match.group(1) if match else None


def _unreadable(path: Path, why: BaseException | str) -> UserError:
    reason = first_line(why) if isinstance(why, BaseException) else why
    return UserError(f"{path}: not a readable weights file ({reason}); fetch or save it again")
