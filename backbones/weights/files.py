"""Reads weights files: safetensors, and the state dicts in checkpoints of any training program."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from backbones.common.files import JsonObject
from backbones.common.run_files import CONFIG_FILE, MODEL_FILE, resume_options
from backbones.errors import UserError, first_line, first_names
from backbones.weights.exported import is_exported, read_metadata
from backbones.weights.pickles import StandIn, is_plain, read_pickle, unreadable
from backbones.weights.plain_pickles import read_plain_pickle
from backbones.weights.pretraining import first_encoder
from backbones.weights.sources import split_part

# Weights files of a run folder, in order of preference.
RUN_FILES = (MODEL_FILE, "checkpoint/best.safetensors")
# Keys under which training programs keep the state dict. Averaged weights come first: those programs evaluate them.
_WRAPPERS = (
    *("model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "teacher"),
    *("state_dict", "model_state_dict", "model", "net", "weights", "params"),
)
_MOST_WRAPPERS = 4  # around each other; a mapping in a pickle may contain itself
_OPTIMIZER = re.compile("optim", re.IGNORECASE)  # beginning of the key of an optimizer's state
# torch.optim.swa_utils.AveragedModel stores its number of updates beside the weights.
_COUNTERS = ("n_averaged",)


@dataclass(frozen=True)
class Checkpoint:
    """A state dict in a weights file.

    Attributes:
        entries: the tensors by name.
        source: the file, and which of its state dicts this is if it has several.
        author: "__author__" of files for detectron2; "" in other files.
    """

    entries: dict[str, Tensor]
    source: str
    author: str = ""


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the entries of a weights file, as `read_checkpoint` does."""
    return read_checkpoint(path).entries


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """Read the names of the entries that `read_state` returns. Of a safetensors file, only the header is read."""
    file, part = split_part(path)
    if part or not file.endswith(".safetensors") or not os.path.isfile(file):
        return list(read_state(path))
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise unreadable(Path(file), first_line(error)) from error


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the state dict of a .safetensors file or of a pickle (.pth, .pt, .bin, .ckpt, .pkl) to the CPU.

    The state dict may be the whole content or lie under a key, such as "state_dict". If there are several, averaged
    weights ("model_ema", "teacher", ...) come first, then the usual names, and then the only one that is neither a head
    nor a second encoder. Arrays of NumPy become tensors. No code of the file is run.

    Args:
        path: the file, or "FILE::PART" for the entries below a part, such as "moco.pth::module.encoder_k" or
            "dino.pth::student". The names of the entries are then without the part.

    Raises:
        UserError: the file does not exist, is no weights file, has several state dicts of unusual names or not the
            given part, or is a pickle that would run code.
    """
    given, (file, part) = os.fspath(path), split_part(path)
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; give an existing file, or weights='imagenet' or weights=None")
    content = _content(path)
    author = content.get("__author__") if isinstance(content, Mapping) else None
    # Unwrap a checkpoint until the state dict itself is left.
    chosen: list[str] = []
    for _ in range(_MOST_WRAPPERS):
        if isinstance(content, Mapping) and (named := _named_wrapper(content, part)):
            content, part = content[named], part[len(named) + 1 :]
        elif isinstance(content, Mapping) and (wrapper := _wrapper(content, path)):
            others = [key for key in _state_dicts(content) if key != wrapper]
            chosen += [f"{wrapper}, not {' or '.join(others)}"] if others else []
            content = content[wrapper]
    entries = content.items() if isinstance(content, Mapping) else ()
    state = {k: v for k, v in entries if isinstance(k, str) and isinstance(v, Tensor) and k not in _COUNTERS}
    if not state:
        raise _nothing(path, content)
    if part:
        state = _below(state, part, path)
    source = f"{given} ({'; '.join(chosen)})" if chosen else given
    return Checkpoint(state, source, author if isinstance(author, str) else "")


def run_weights(run: Path) -> Path:
    """Return the weights file of a run folder: the delivered model, or else the best model so far.

    Raises:
        UserError: there is no such folder, or it has no weights file.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder or weights file; check the path")
    for name in RUN_FILES:
        if (run / name).is_file():
            return run / name
    files = " or ".join(RUN_FILES)
    if is_run(run):
        raise UserError(f"{run}: has no {files} yet; continue its training with {resume_options(run)}")
    raise UserError(f"{run}: is not a run folder (it has no {files}); name the folder of a finished training run")


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a training run."""
    return any((folder / name).is_file() for name in (*RUN_FILES, CONFIG_FILE))


def read_meta(path: str | os.PathLike[str]) -> JsonObject:
    """Read the header of one of our own weights or exported files: task, classes, input and options of its model.

    For any other file, and for words such as "imagenet", the result is empty.
    """
    return _header_entry(path, "meta")


def read_config(path: str | os.PathLike[str]) -> JsonObject:
    """Read from the header of one of our own weights or exported files all options of its run; {} for other files."""
    return _header_entry(path, "config")


def _header_entry(path: str | os.PathLike[str], name: str) -> JsonObject:
    """Return a JSON object of a file's header; {} if there is none."""
    path = Path(path)
    if is_exported(path):
        found = read_metadata(path).get(name, {}) if path.is_file() else {}
        return found if isinstance(found, dict) else {}
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get(name, "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}  # reading the tensors reports what is wrong with the file
    return found if isinstance(found, dict) else {}


def _content(path: Path) -> object:
    if is_exported(path):
        raise UserError(f"{path}: an exported file gives no weights; name the weights file of its run")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return read_plain_pickle(path) if is_plain(path) else read_pickle(path)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise unreadable(path, first_line(error)) from error


def _named_wrapper(content: Mapping[str, object], part: str) -> str | None:
    """Return the key of a mapping in a checkpoint that is the beginning of a part, such as "student"; else None."""
    keys = [key for key, value in content.items() if isinstance(key, str) and isinstance(value, Mapping)]
    return next((key for key in keys if f"{part}.".startswith(f"{key}.")), None)


def _below(state: Mapping[str, Tensor], part: str, path: Path) -> dict[str, Tensor]:
    """Return the entries whose names begin with a part, without the part.

    Raises:
        UserError: there is none.
    """
    found = {key[len(part) + 1 :]: value for key, value in state.items() if key.startswith(f"{part}.")}
    if not found:
        parts = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in state))
        raise UserError(f"{path}: has no entries below {part}; its parts are {first_names(parts)}")
    return found


def _wrapper(content: Mapping[str, object], path: Path) -> str | None:
    """Return the key under which a checkpoint keeps its state dict, or None if `content` is the state dict itself.

    Raises:
        UserError: the file has several state dicts, and none of them has a usual name.
    """
    sizes = _sizes(content)
    if known := next((word for word in _WRAPPERS if sizes.get(word)), None):
        return known
    found = _state_dicts(content)
    if len(found) > 1:
        if encoder := first_encoder(found):
            return encoder
        raise UserError(
            f"{path}: holds several state dicts ({', '.join(found)}); save the state dict to load in a file of its own"
        )
    return found[0] if found else None


def _sizes(content: Mapping[str, object]) -> dict[str, int]:
    """Return the number of tensors by name in each mapping of a checkpoint."""
    return {key: _count(value) for key, value in content.items() if isinstance(value, Mapping)}


def _state_dicts(content: Mapping[str, object]) -> list[str]:
    """Return the keys of a checkpoint under which state dicts may lie, without an optimizer's."""
    bare = sum(isinstance(value, Tensor) for value in content.values())
    sizes = _sizes(content).items()
    return [key for key, size in sizes if size > bare and isinstance(key, str) and not _OPTIMIZER.match(key)]


def _count(content: Mapping[object, object], depth: int = _MOST_WRAPPERS) -> int:
    """Return the number of tensors by name in a mapping and in the mappings inside it."""
    named = [value for key, value in content.items() if isinstance(key, str)]
    inside = sum(_count(value, depth - 1) for value in named if isinstance(value, Mapping)) if depth else 0
    return inside + sum(isinstance(value, Tensor) for value in named)


def _nothing(path: Path, content: object) -> UserError:
    """Return the error for a file without weights by name."""
    inside = content.values() if isinstance(content, Mapping) else [content]
    if any(isinstance(value, StandIn) for value in inside):
        return UserError(
            f"{path}: holds a pickled model or other objects but no state dict; save `model.state_dict()` instead"
        )
    return UserError(
        f"{path}: does not contain a state dict; give a file that contains one, either directly or under the "
        "key 'state_dict' or 'model'"
    )
