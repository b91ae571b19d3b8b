"""Creates, finds and locks run folders; also creates folders for other results."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from backbones.common.data_split import SPLITS_FILE
from backbones.common.files import create_output, write_json
from backbones.common.run_files import CONFIG_FILE, MODEL_FILE
from backbones.errors import UserError
from tools.engine.checkpoint import generations
from tools.processes.locks import lock_for_life

LAST, BEST = "checkpoint/last.safetensors", "checkpoint/best.safetensors"
LAUNCHERS = "checkpoint/launchers.json"  # names of all launches of torchrun that have worked on this run
LOCK = ".lock"  # locked by the process that trains
TEMPORARY = (".*.tmp", "checkpoint/.*.tmp")
DECODED = "decoded"  # folder of decoded images, see caching.py
# Files of trackers, see trackers.py.
TRACKED = ("tensorboard/events.out.tfevents.*", "metrics.csv", "tracking.json", "wandb/**/*")
# Files of a start that was killed before its first checkpoint, besides temporary files.
WRITTEN_AT_START = (CONFIG_FILE, SPLITS_FILE, LOCK, LAUNCHERS, f"{DECODED}/*", *TRACKED)


def choose_folder(
    output: str | None, *, prefix: str, resume: bool, launchers: Collection[str] = ()
) -> tuple[Path, bool]:
    """Return the folder of this run, and whether the run resumes from a checkpoint in the folder.

    Without `output`, a run gets a new folder `runs/<prefix>-<time>`, and `resume` chooses the newest of these folders.
    Processes that torchrun restarted get the folder that they worked on before. Nothing is written to the folder yet,
    so that an error found later leaves nothing behind.

    Args:
        launchers: names of torchrun's launches that started these processes (`environment.launcher`).

    Raises:
        UserError: the folder holds another run, or has no checkpoint to resume from.
    """
    # After a restart by torchrun, continue where the processes were killed, whatever the options say.
    interrupted = _last_used_by(launchers, [Path(output)] if output else Path("runs").glob(f"{prefix}-*"))
    if interrupted is not None:
        return interrupted, bool(generations(interrupted / LAST))
    folder = Path(output) if output else newest_run(prefix) if resume else _new_folder(prefix)
    # A start that was killed before its first checkpoint begins again, with --resume or without.
    killed_early = (folder / CONFIG_FILE).is_file() and not foreign_files(folder)
    if resume and not killed_early and not generations(folder / LAST):
        raise UserError(f"--output {folder}: {_why_not_resumed(folder)}")
    if not resume and not killed_early and any(_files(folder)):
        raise UserError(f"--output {folder}: holds files already; continue that run with --resume or name a new folder")
    return folder, resume and not killed_early


def _why_not_resumed(folder: Path) -> str:
    """Describe why a folder without a checkpoint cannot be resumed, and what to do."""
    if (folder / MODEL_FILE).is_file():
        return (
            f"holds {MODEL_FILE} but no {LAST}, as after --keep-checkpoints 0, so the run cannot be resumed; "
            "evaluate the file with --eval-only --weights, or train a new run from it"
        )
    return f"has no {LAST} to resume; leave --resume out to start a run there"


def remove_checkpoints(folder: Path, *, best: bool) -> None:
    """Remove the checkpoints of a run folder, what only their readers need, and the folder if it is empty then.

    Args:
        best: remove the best model as well.
    """
    for path in (*generations(folder / LAST), *((folder / BEST,) if best else ()), folder / LAUNCHERS):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # holds other files
        (folder / LAST).parent.rmdir()


def create_folder(folder: Path, *, launchers: Collection[str] = ()) -> None:
    """Create a run folder, and record the names of the torchrun launches that train in it.

    Raises:
        UserError: the folder cannot be created or written.
    """
    _create(folder, folder / "checkpoint")
    if launchers:
        write_json(folder / LAUNCHERS, sorted({*launchers, *_launchers_of(folder)}))


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files and decoded images that a killed process left in a run folder."""
    for pattern in TEMPORARY:
        for path in folder.glob(pattern):
            path.unlink()
    shutil.rmtree(folder / DECODED, ignore_errors=True)


def lock(folder: Path) -> None:
    """Lock a run folder against other trainings until this process ends. Data-loading workers do not hold the lock.

    Raises:
        UserError: another process trains in the folder.
    """
    if not lock_for_life(folder / LOCK):
        raise UserError(f"--output {folder}: another process trains there; wait until it ends, or name a new folder")


def leftover_files(folder: Path) -> list[Path]:
    """Return the files of a run folder that a training writes before its first checkpoint."""
    patterns = (*WRITTEN_AT_START, *TEMPORARY)
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]


def foreign_files(folder: Path) -> set[Path]:
    """Return the files of a folder other than those that a training writes before its first checkpoint."""
    return set(_files(folder)) - set(leftover_files(folder))


def newest_run(prefix: str) -> Path:
    """Return the folder `runs/<prefix>-*` in which a checkpoint was written last.

    Raises:
        UserError: no such run has a checkpoint.
    """
    found = {run: generations(run / LAST) for run in Path("runs").glob(f"{prefix}-*")}
    runs = [run for run, checkpoints in found.items() if checkpoints]
    if not runs:
        raise UserError(f"--resume: no runs/{prefix}-* with a {LAST}; name the run folder with --output")
    return max(runs, key=lambda run: found[run][0].stat().st_mtime)


def choose_results(output: str | None, *, prefix: str) -> Path:
    """Return the folder for results of a command that does not train: `output`, or by default a new folder under runs/.

    Raises:
        UserError: the folder holds files.
    """
    folder = Path(output) if output else _new_folder(prefix)
    if any(_files(folder)):
        raise UserError(f"--output {folder}: holds files already; name a new folder, so that nothing is overwritten")
    return folder


def create_results(folder: Path) -> None:
    """Create a folder for results.

    Raises:
        UserError: the folder cannot be created or written.
    """
    _create(folder, folder)


def _last_used_by(launchers: Collection[str], folders: Iterable[Path]) -> Path | None:
    """Return the folder in which a training of these torchrun launches ran last, or None."""
    used = [folder for folder in folders if not {*launchers}.isdisjoint(_launchers_of(folder))]
    return max(used, key=lambda folder: (folder / LAUNCHERS).stat().st_mtime, default=None)


def _launchers_of(folder: Path) -> list[str]:
    """Return the names of the torchrun launches that trained in a run folder; [] if their record cannot be read."""
    try:
        names = json.loads((folder / LAUNCHERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _create(folder: Path, innermost: Path) -> None:
    create_output(folder, innermost=innermost)
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {folder}: cannot be written; name another folder")


def _new_folder(prefix: str) -> Path:
    """Create a folder named after the time. If it already exists, a number is added.

    The folder reserves the name. An empty folder is removed when this process ends.
    """
    stem = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1000):
        folder = Path("runs") / (f"{stem}-{number}" if number else stem)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # reported by `create_folder`, after all other errors
            return folder
        atexit.register(_remove_empty, folder.absolute())
        return folder
    raise UserError(f"runs/{stem}-*: a thousand folders of this name exist already; name a folder with --output")


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
