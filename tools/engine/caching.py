"""The folder in which a training keeps decoded images (`--cache`): in memory, or in the run folder."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backbones.common.decoded import GIB, DecodedImages
from backbones.errors import UserError
from tools.engine.options import RunOptions
from tools.processes import distributed, environment
from tools.processes.locks import lock_for_life

MEMORY = Path("/dev/shm")  # a folder of Linux whose files lie in memory
PREFIX = "resnet-transfer-decoded-"
FOLDER = "decoded"  # in the run folder
TRIES = 3  # to remove the folder, in which a worker may be writing its last image
SHARE = 0.25  # of the free space, by default


def choose_cache(run: RunOptions, folder: Path) -> DecodedImages | None:
    """Return where a training keeps decoded images; None without `--cache`. Nothing is written yet.

    An evaluation alone and a dry run read each image once, so they keep none. All processes must call this.

    Args:
        folder: the run folder, which may not exist yet.
    """
    name = distributed.broadcast(PREFIX + secrets.token_hex(4))
    if run.cache == "none" or run.eval_only or run.dry_run:
        return None
    place = folder / FOLDER if run.cache == "disk" else _memory() / name
    free = shutil.disk_usage(next(parent for parent in place.resolve().parents if parent.is_dir())).free
    return DecodedImages(place, int(SHARE * free) if run.cache_gib is None else min(free, int(run.cache_gib * GIB)))


def cache_row(cache: DecodedImages | None) -> dict[str, str]:
    """Return the row of the plan that says where decoded images are kept; {} if they are not."""
    return (
        {} if cache is None else {"cache": f"at most {cache.limit / GIB:.2f} GiB of decoded images in {cache.folder}"}
    )


@contextmanager
def kept(cache: DecodedImages | None) -> Iterator[None]:
    """Context manager of a training: creates the folder of decoded images; at the end prints its content, removes it.

    The first process of each machine removes. The others decode what they no longer find.
    """
    if cache is None:
        yield
        return
    # Remove before any process creates.
    distributed.on_all(lambda: _prepare(cache))
    distributed.on_all(lambda: _explained(cache.folder, cache.create))
    try:
        yield
    finally:
        if environment.is_main():
            print(cache.describe(), flush=True)
        if environment.is_main_of_machine():
            _remove(cache.folder)


def _prepare(cache: DecodedImages) -> None:
    if environment.is_main_of_machine():
        _explained(cache.folder, lambda: _remove_abandoned(cache.folder))


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


def _remove_abandoned(folder: Path) -> None:
    """Remove the folders of decoded images whose processes were killed, and lock the name of the new one."""
    shutil.rmtree(folder, ignore_errors=True)  # of this run before it was killed
    if folder.name == FOLDER:
        return
    for other in {path.with_suffix("") for path in folder.parent.glob(f"{PREFIX}*")}:
        if lock_for_life(_lock_of(other)):
            _remove(other)
    lock_for_life(_lock_of(folder))


def _remove(folder: Path) -> None:
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
