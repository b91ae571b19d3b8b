"""The system's limit on open files, which data-loading workers need."""

from __future__ import annotations

from contextlib import suppress

from backbones.errors import UserError

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

MOST = 1 << 20  # open files; some systems name a limit of thousands of millions
BASE, PER_WORKER = 96, 12  # open files of a training, and for each worker of a loader: queues, and batches on their way
LOADERS = 2  # of training and validation images


def raise_open_files() -> None:
    """Raise the limit on open files of this process and its children as far as the system allows."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(ValueError, OSError):  # macOS has a lower limit that it does not name here
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_open_files(workers: int) -> None:
    """Refuse a number of data-loading workers that needs more open files than the limit allows.

    Raises:
        UserError: the workers need more open files; the text names both numbers.
    """
    if resource is None or not workers:
        return
    soft, need = resource.getrlimit(resource.RLIMIT_NOFILE)[0], BASE + LOADERS * PER_WORKER * workers
    if soft != resource.RLIM_INFINITY and soft < need:
        raise UserError(
            f"--workers {workers}: need about {need} open files, but the system allows {soft}; raise the limit "
            "(ulimit -n) or lower --workers"
        )
