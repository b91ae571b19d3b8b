"""Files and folders that a reader, or a kill, never meets half written."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from backbones.errors import UserError

JsonObject: TypeAlias = dict[str, Any]  # a parsed JSON or YAML mapping; whoever reads a value checks its type


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it.

    Raises:
        UserError: where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON as `write_text` writes text; see there for the errors."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_yaml(path: Path, *, where: str = "", way_out: str = "") -> Any:
    """The value that a YAML file holds; tags that would make objects are refused.

    Args:
        where: what to call the file in messages, by default its path.
        way_out: what to do about one that cannot be read.

    Raises:
        UserError: where it cannot be read or is not YAML.
    """
    import yaml

    where, end = where or str(path), way_out and f"; {way_out}"
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}){end}") from None
    except Exception as error:  # PyYAML lets any kind out, such as an IndexError for `!!int`
        raise UserError(f"{where}: not YAML ({' '.join(str(error).split()) or type(error).__name__}){end}") from None


def create_once(folder: Path, *, is_complete: Callable[[], bool], write: Callable[[Path], None]) -> None:
    """Write a folder beside its final place, then rename it: the final folder is complete from its first moment.

    Several processes may call this at once: one writes, the others wait for it.

    Args:
        write: fills a folder of the path that it is given.
    """
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if is_complete():  # another process was faster
            return
        for left_over in folder.parent.glob(f".{folder.name}.*.partial"):  # of a killed process
            shutil.rmtree(left_over, ignore_errors=True)
        unfinished = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
        try:
            write(unfinished)
            unfinished.rename(folder)  # replaces an empty folder, refuses any other
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
