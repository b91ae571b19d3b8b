"""Reading pickles of weights without running code: unknown classes become inert stand-ins, functions are not called."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.serialization import MAGIC_NUMBER

from backbones.errors import UserError, first_line

# Classes and functions that a checkpoint may call, because their stand-ins keep nothing of the arguments.
_HARMLESS = {
    *(f"pathlib.{kind}{name}" for kind in ("", "Pure") for name in ("Path", "PosixPath", "WindowsPath")),
    *(f"pathlib._local.{kind}" for kind in ("Path", "PosixPath", "WindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.random._pickle.__randomstate_ctor",
        "numpy.random._pickle.__generator_ctor",
    ),
    *("datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone"),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "_codecs.encode"),
    *(
        "builtins.frozenset",
        "builtins.set",
        "builtins.slice",
        "builtins.range",
        "builtins.complex",
        "builtins.bytearray",
    ),
}
_TORCH = pickle.dumps(MAGIC_NUMBER, protocol=2)  # beginning of files in the older format of torch.save
_MOST_UNKNOWN = 200  # names that a file may have beside those that torch knows
_UNKNOWN = re.compile(r"GLOBAL\s+`?([A-Za-z_][\w.]*) was not an allowed global")


class WouldRunCodeError(Exception):
    """A pickle calls a class or function that is not known to be harmless. The message is that name."""


class _Uncallable(type):
    """Type of the stand-ins. A pickle may create an instance without a call, but a call is refused."""

    def __call__(cls, *args: object, **kwargs: object) -> Any:
        if f"{cls.__module__}.{cls.__qualname__}" not in _HARMLESS:
            raise WouldRunCodeError(f"{cls.__module__}.{cls.__qualname__}")
        return object.__new__(cls)  # type: ignore[arg-type]  # instances of this class are classes


class StandIn(metaclass=_Uncallable):
    """Base class of what stands for an unknown class. It has no behaviour, and its instances hold nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> StandIn:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore the state of the pickled object."""


def is_plain(path: Path) -> bool:
    """Return whether a file is a pickle that pickle.dump wrote, and not torch.save."""
    with path.open("rb") as file:
        start = file.read(len(_TORCH))
    # Protocols 2 and later begin with their number. torch's older format begins with a pickled number.
    return start[:1] == b"\x80" and start != _TORCH


def read_pickle(path: Path) -> object:
    """Return the content of a .pth, .pt or .bin file, with instances of `StandIn` for objects of unknown classes.

    torch's restricted reader imports no class and calls no function by a name in the file.

    Raises:
        UserError: the file is damaged, no pickle, or calls a class or function that is not known to be harmless.
    """
    unknown: dict[str, Callable[..., object]] = {}
    try:
        while True:
            try:
                with torch.serialization.safe_globals(list(unknown.values())):
                    return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                # torch names one unknown class at a time.
                name = _unknown_name(str(error))
                if name is None or name in unknown or len(unknown) == _MOST_UNKNOWN:
                    raise
                unknown[name] = stand_in(name)
    except WouldRunCodeError as refused:
        raise refusal(path, str(refused)) from None
    except pickle.UnpicklingError as error:
        if name := _blocked_name(str(error)):
            raise refusal(path, name) from error
        raise unreadable(path, "not a pickle of weights") from error
    except Exception as error:  # torch's reader raises many kinds of exceptions on a damaged file
        raise unreadable(path, first_line(error)) from error


def unreadable(path: Path, why: str) -> UserError:
    """Return the error for a file that is damaged or no weights file."""
    return UserError(f"{path}: not a readable weights file ({why}); download or save it again")


def stand_in(name: str) -> Callable[..., object]:
    """Return an inert class that stands for an unknown class or function. A pickle may call only harmless ones."""
    module, _, bare = name.rpartition(".")
    if name == "collections.defaultdict":  # its entries may be the weights
        made: Callable[..., object] = lambda *_: {}  # noqa: E731
    else:
        made = _Uncallable(bare, (StandIn,), {})
    made.__module__, made.__qualname__, made.__name__ = module, bare, bare
    return made


def _unknown_name(text: str) -> str | None:
    """Return the class or function that torch does not know, found in its long message."""
    match = _UNKNOWN.search(text)
    if match is None:
        return None
    return match[1] if "." in match[1] else f"builtins.{match[1]}"  # torch leaves out the module of built-ins


def _blocked_name(text: str) -> str | None:
    """Return the class or function that torch refuses under any circumstances, found in its long message."""
    match = re.search(r"(?:GLOBAL|[Cc]lass|function)\s+`?([A-Za-z_][\w.]*\.\w+)", text)
    return match[1] if match else None


def refusal(path: Path, name: str) -> UserError:
    """Return the error for a pickle that calls a class or function that is not known to be harmless."""
    return UserError(
        f"{path}: refused, because reading this pickle would run code ({name}); save only the state dict, preferably "
        "as safetensors"
    )
