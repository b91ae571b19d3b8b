"""The run folder: configuration, one JSON line per logged step, TensorBoard events, progress bar."""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from backbones.common.files import write_json
from backbones.errors import UserError
from tools.engine.checkpoint import generations

LAST, BEST = "checkpoint/last.safetensors", "checkpoint/best.safetensors"


LAUNCHERS = "checkpoint/launchers.json"  # all torchruns that worked on this run


LOCK = ".lock"  # held by the process that trains


# What a start leaves behind that was killed before its first checkpoint; temporary files come besides.
START_LEAVES = ("config.yaml", LOCK, LAUNCHERS, "tensorboard/events.out.tfevents.*")


TEMPORARY = (".*.tmp", "checkpoint/.*.tmp")


_held: list[int] = []  # open lock files: their locks end with this process


def choose_folder(
    output: str | None, *, prefix: str, resume: bool, launchers: Collection[str] = ()
) -> tuple[Path, bool]:
    """The folder of this run, and whether to go on with what it holds.

    Nothing is created yet, so that a mistake found later leaves nothing behind. Without `output` a run gets a new
    folder `runs/<prefix>-<time>`, and `resume` takes the newest of them. Processes that torchrun started anew go on
    in the folder that they left.

    Args:
        launchers: of these processes; see `distributed.launcher`.

    Raises:
        UserError: where the folder holds another run, or has none to resume.
    """
    left = _left_by(launchers, [Path(output)] if output else Path("runs").glob(f"{prefix}-*"))
    if left is not None:
        return left, bool(generations(left / LAST))
    folder = Path(output) if output else newest(prefix) if resume else _fresh(prefix)
    killed_early = (folder / "config.yaml").is_file() and not strangers(folder)
    if resume and not killed_early and not generations(folder / LAST):
        raise UserError(f"--output {folder}: has no {LAST} to resume; leave --resume out to start a run there")
    if not resume and not killed_early and any(_files(folder)):
        raise UserError(f"--output {folder}: holds files already; continue that run with --resume or name a new folder")
    return folder, resume and not killed_early


def create_folder(folder: Path, *, launchers: Collection[str] = ()) -> None:
    """Create a run folder, with a note of who launched the processes.

    Raises:
        UserError: where it cannot be created or written.
    """
    _create(folder, folder / "checkpoint")
    if launchers:
        write_json(folder / LAUNCHERS, sorted({*launchers, *_launchers_of(folder)}))


def hold(folder: Path) -> None:
    """Keep other trainings out of a run folder for as long as this process lives; its data workers do not hold it.

    Raises:
        UserError: where another process trains there.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    _held.append(descriptor)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # else a file system without locks
            raise UserError(
                f"--output {folder}: another process trains there; wait for its end, or name a new folder"
            ) from None


def leftovers(folder: Path) -> list[Path]:
    """What a start may have left in a run folder."""
    return [path for pattern in (*START_LEAVES, *TEMPORARY) for path in folder.glob(pattern) if path.is_file()]


def strangers(folder: Path) -> set[Path]:
    """The files of a folder that a start alone does not leave."""
    return set(_files(folder)) - set(leftovers(folder))


def choose_results(output: str | None, *, prefix: str) -> Path:
    """The folder of results that are no training, by default a new one under runs/; nothing is created yet.

    Raises:
        UserError: where it holds files.
    """
    folder = Path(output) if output else _fresh(prefix)
    if any(_files(folder)):
        raise UserError(f"--output {folder}: holds files already; name a new folder, so that nothing is overwritten")
    return folder


def create_results(folder: Path) -> None:
    """Create a folder of results; see `create_folder` for the errors."""
    _create(folder, folder)


def _left_by(launchers: Collection[str], folders: Iterable[Path]) -> Path | None:
    """The folder that these launchers worked on last."""
    left = [folder for folder in folders if not {*launchers}.isdisjoint(_launchers_of(folder))]
    return max(left, key=lambda folder: (folder / LAUNCHERS).stat().st_mtime, default=None)


def _launchers_of(folder: Path) -> list[str]:
    try:
        names = json.loads((folder / LAUNCHERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or damaged: then the folder is nobody's to go on with
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _create(folder: Path, innermost: Path) -> None:
    try:
        innermost.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be created ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {folder}: cannot be written; name another folder")


def _fresh(prefix: str) -> Path:
    """A new folder's name, which no other process of this second has; what stays empty goes with this process."""
    stem = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
    for copy in range(1000):
        folder = Path("runs") / (f"{stem}-{copy}" if copy else stem)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # said by `create_folder`, once all else is known to be right
            return folder
        atexit.register(_remove_empty, folder.absolute())
        return folder
    raise UserError(f"runs/{stem}-*: a thousand runs began in this second; name a folder with --output")


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def newest(prefix: str) -> Path:
    """The run `runs/<prefix>-*` with the youngest checkpoint.

    Raises:
        UserError: where there is none.
    """
    found = {run: generations(run / LAST) for run in Path("runs").glob(f"{prefix}-*")}
    runs = [run for run, checkpoints in found.items() if checkpoints]
    if not runs:
        raise UserError(f"--resume: no runs/{prefix}-* with a {LAST}; name the run folder with --output")
    return max(runs, key=lambda run: found[run][0].stat().st_mtime)
