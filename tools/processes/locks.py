"""Locks on files that end with the processes that hold them, on POSIX systems and on Windows."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TAKEN = (errno.EACCES, errno.EAGAIN)

_held: list[int | FileLock] = []  # the system releases these locks when this process ends


def lock_for_life(path: Path) -> bool:
    """Lock a file until this process ends; return False if another process already holds the lock.

    Forked processes, such as data-loading workers, do not hold the lock: they may outlive this process for some
    seconds. filelock's locks are inherited on POSIX systems, so it serves on Windows only. On a file system without
    locks nothing is locked.
    """
    if fcntl is None:
        return _lock_by_filelock(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _held.append(descriptor)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in TAKEN
    return True


def lock_with_children(file: BinaryIO, path: Path) -> bool:
    """Lock an open file for this process and its children; return False if another process already holds the lock.

    Processes that inherit the file hold the lock as well, until the last of them ends. On Windows this process alone
    holds it.

    Args:
        path: path of the file.
    """
    if fcntl is None:
        return _lock_by_filelock(path.with_name(f".{path.name}.lock"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_by_filelock(path: Path) -> bool:
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return False
    _held.append(lock)
    return True
