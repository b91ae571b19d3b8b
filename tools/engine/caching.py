"""The folder in which a training keeps decoded images (`--cache`): in memory, or in the run folder."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backbones.common.decoded import GIB, DecodedImages
from backbones.errors import UserError
from tools.engine.options import RunOptions
from tools.engine.run_folder import DECODED
from tools.processes import distributed, environment
from tools.processes.locks import lock_for_life

MEMORY = Path("/dev/shm")  # a folder of Linux whose files lie in memory
PREFIX = "resnet-transfer-decoded-"
TRIES = 3  # to remove the folder, in which a worker may be writing its last image
SHARE, MOST = 0.25, 0.5  # of the free space: by default, and at most, because checkpoints and batches need space too


def choose_cache(run: RunOptions, folder: Path) -> DecodedImages | None:
    """Return where a training keeps decoded images; None without `--cache`. Nothing is written yet.

    An evaluation alone and a dry run read each image once, so they keep none. All processes must call this.

    Args:
        folder: the run folder, which may not exist yet.
    """
    if run.cache == "none" or run.eval_only or run.dry_run:
        return None
    place = (
        folder / DECODED if run.cache == "disk" else _memory() / distributed.broadcast(PREFIX + secrets.token_hex(4))
    )
    free = shutil.disk_usage(next(parent for parent in place.resolve().parents if parent.is_dir())).free
    wanted = SHARE * free if run.cache_gib is None else run.cache_gib * GIB
    return DecodedImages(place, int(min(wanted, MOST * free)))


def cache_row(cache: DecodedImages | None) -> dict[str, str]:
    """Return the row of the plan that says where decoded images are kept; {} if they are not."""
    if cache is None:
        return {}
    return {"cache": f"at most {cache.limit / GIB:.2f} GiB of decoded images in {cache.folder}"}


@contextmanager
def kept(cache: DecodedImages | None) -> Iterator[None]:
    """Context manager of a training: creates the folder of decoded images; at the end prints its content, removes it.

    The first process of each machine removes. The others decode what they no longer find.
    """
    if environment.is_main_of_machine():
        _remove_abandoned()
    if cache is None:
        yield
        return
    # Lock the name before any process creates the folder, because other trainings remove folders without a lock.
    distributed.on_all(lambda: _explained(cache.folder, lambda: _lock(cache.folder)))
    distributed.on_all(lambda: _explained(cache.folder, cache.create))
    try:
        yield
    finally:
        try:
            if environment.is_main():
                print(cache.describe(), flush=True)
        finally:  # also if nobody reads what is printed
            if environment.is_main_of_machine():
                _remove(cache.folder)


def _explained(folder: Path, work: Callable[[], None]) -> None:
    """Call `work`, which writes; explain the error of a folder that refuses.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        work()
    except OSError as error:
        raise UserError(
            f"--cache: {folder} cannot be written ({error.strerror}); make room there, or use the other of ram and disk"
        ) from None


def _memory() -> Path:
    """Return a folder whose files lie in memory, or that of temporary files if the system has none."""
    return MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())


def _lock(folder: Path) -> None:
    """Lock the name of a folder in memory. The lock of the run folder also holds for what lies in it."""
    if environment.is_main_of_machine() and folder.name != DECODED:
        lock_for_life(_lock_of(folder))


def _remove_abandoned() -> None:
    """Remove the folders in memory whose trainings were killed."""
    for folder in {path.with_suffix("") for path in _memory().glob(f"{PREFIX}*")}:
        with suppress(OSError):  # it belongs to another user
            if lock_for_life(_lock_of(folder)):
                _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
