"""Reads pickles of NumPy arrays, such as detectron2's .pkl files, without running code or NumPy's own loader."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones.errors import first_line
from backbones.weights.pickles import WouldRunCodeError, refusal, stand_in, unreadable

# Types that torch has, by NumPy's codes.
_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}
_DEPTH = 4  # of mappings inside each other; a mapping in a pickle may contain itself


class _ArrayType:
    """Stands for numpy.dtype: keeps its code and its byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


class _Array:
    """Stands for a NumPy array: keeps the tensor with its content, or None if torch has no such type."""

    def __init__(self, *_: object) -> None:
        self.tensor: torch.Tensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.tensor = _tensor(data, kind, shape, "F" if fortran else "C")


def _tensor(data: Any, kind: object, shape: tuple[int, ...], order: Any) -> torch.Tensor | None:
    """Return a tensor of the bytes of an array, or None if torch has no such type."""
    if not isinstance(kind, _ArrayType) or kind.code not in _TYPES:
        return None
    raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote bytes as text
    array = np.frombuffer(raw, np.dtype(kind.order + kind.code)).reshape(shape, order=order)
    return torch.from_numpy(np.array(array, dtype=kind.code, order="C"))


def _from_buffer(data: object, kind: object, shape: tuple[int, ...], order: str, *_: object) -> _Array:
    """Stands for NumPy's function that makes an array in pickles of protocol 5."""
    array = _Array()
    array.tensor = _tensor(data, kind, shape, order)
    return array


def _encode(text: str, *_: object) -> bytes:
    """Stands for _codecs.encode, by which protocol 2 writes bytes."""
    return text.encode("latin1")


_KNOWN: dict[str, Callable[..., object]] = {
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    **{"numpy.ndarray": _Array, "numpy.dtype": _ArrayType, "_codecs.encode": _encode},
    **{"collections.OrderedDict": dict, "collections.defaultdict": lambda *_: {}},
}


class _Unpickler(pickle.Unpickler):
    """Reader that knows nothing but stand-ins. It imports no class and no function."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        return _KNOWN.get(f"{module}.{name}") or stand_in(f"{module}.{name}")


def read_plain_pickle(path: Path) -> object:
    """Return the content of a file that pickle.dump wrote, with tensors in place of NumPy arrays.

    Raises:
        UserError: the file is damaged, or calls a class or function that is not known to be harmless.
    """
    try:
        with path.open("rb") as file:
            return _with_tensors(_Unpickler(file, encoding="latin1").load(), _DEPTH)
    except WouldRunCodeError as refused:
        raise refusal(path, str(refused)) from None
    except Exception as error:  # a damaged pickle raises many kinds of exceptions
        raise unreadable(path, first_line(error)) from error


def _with_tensors(content: object, depth: int) -> object:
    if isinstance(content, _Array):
        return content.tensor
    if isinstance(content, Mapping) and depth:
        return {key: _with_tensors(value, depth - 1) for key, value in content.items()}
    return content
