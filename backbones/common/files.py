"""Writes files and folders so that they are either complete or absent, even if a process is killed while it writes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, TypeAlias

from backbones.errors import UserError

JsonObject: TypeAlias = dict[str, Any]  # a parsed JSON or YAML mapping; whoever reads a value checks its type


@contextmanager
def atomic_file(path: Path, *, name: str = "") -> Iterator[Path]:
    """Context manager that yields a temporary path to write to, and renames it to `path` at the end.

    After an exception inside the block the temporary file is removed and `path` stays as it was.

    Args:
        name: what messages call the file, such as "--output FILE". By default its path.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # others may write the same file
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{name or path}: cannot be written ({error.strerror}); free space, or name another folder"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed writers of a file left. No other process may write the file now."""
    for left in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        left.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write a value as JSON under a temporary name and rename the file.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_yaml(path: Path, *, name: str = "", fix: str = "") -> Any:
    """Return the value of a YAML file. Tags that would create objects are refused.

    Args:
        name: what messages call the file. By default its path.
        fix: what messages tell the user to do about a file that cannot be read. By default to check or to fix it.

    Raises:
        UserError: the file cannot be read or is not YAML.
    """
    import yaml

    name = name or str(path)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}); {fix or 'check the path'}") from None
    except Exception as error:  # PyYAML raises many kinds of exceptions, such as an IndexError for `!!int`
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: is not YAML ({reason}); {fix or 'fix the file'}") from None


def create_output(folder: Path, *, innermost: Path | None = None) -> None:
    """Create the folder that a user names with `--output`. It may exist already.

    Args:
        innermost: a folder inside `folder` to create as well.

    Raises:
        UserError: it cannot be created.
    """
    try:
        (innermost or folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be created ({error.strerror}); name another folder") from None


def require_creatable(folder: Path) -> None:
    """Check, without creating it, that the folder that a user names with `--output` can be created, or exists.

    Raises:
        UserError: it lies in a file, is a file, or lies in a folder that cannot be written.
    """
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        fault = "cannot be written" if nearest.is_dir() else "is a file"
        raise UserError(f"--output {folder}: cannot be created ({nearest} {fault}); name another folder")


def create_once(
    folder: Path,
    *,
    is_complete: Callable[[], bool],
    write: Callable[[Path], None],
    fix: str = "free space, or name another folder",
) -> None:
    """Create a folder under a temporary name and rename it, so that other processes never see it incomplete.

    If several processes call this at once, one of them writes and the others wait.

    Args:
        is_complete: whether `folder` exists already.
        write: creates and fills a folder at the path that it gets.
        fix: what the message tells the user to do about a folder that cannot be written.

    Raises:
        UserError: the folder cannot be written, or a file that goes into it cannot be read.
    """
    try:
        _create_once(folder, is_complete, write)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({_reason(error, folder)}); {fix}") from None


def _create_once(folder: Path, is_complete: Callable[[], bool], write: Callable[[Path], None]) -> None:
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.parent / f".{folder.name}.lock"
    lock.touch()  # FileLock waits for ever in a folder that refuses new files, such as /proc
    with FileLock(lock):
        # Another process may have been faster.
        if is_complete():
            return
        # Remove what killed processes left.
        for left_over in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(left_over, ignore_errors=True)
        unfinished = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
        try:
            write(unfinished)
            unfinished.rename(folder)  # replaces an empty folder, refuses any other
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _reason(error: OSError, folder: Path) -> str:
    """Return why a folder cannot be written, with the name of a file elsewhere that cannot be read."""
    other = error.filename if error.filename and not Path(error.filename).is_relative_to(folder.parent) else None
    return f"{other}: {error.strerror}" if other else error.strerror or str(error)


def link_file(source: Path, target: Path) -> None:
    """Put a hard link to a file at a new path, or a copy if links are not possible. Folders are created.

    Raises:
        UserError: the target exists.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise UserError(f"{source}: another image has the name {target.name} in the new data set; rename one of them")
    try:
        target.hardlink_to(source.resolve())
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
