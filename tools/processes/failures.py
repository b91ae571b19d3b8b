"""Ends training by several processes after an error: one process prints the message, and none waits for another.

torchrun checks its processes ten times a second. Once one has failed, it terminates the others and reports which one
failed first.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NoReturn

from backbones.errors import UserError
from tools.processes import environment, stopping

PATIENCE = 10.0  # seconds; torchrun has certainly noticed a dead process by then
# Parts of an error's type or text that show that the connection to another process broke.
LOST_CONNECTION = ("gloo/transport", "DistNetworkError", "DistBackendError", "DistStoreError")


class SharedError(UserError):
    """User error that several processes raise at the same time, and only one of them prints.

    Attributes:
        is_reporter: whether this process prints the error.
    """

    def __init__(self, text: str, *, is_reporter: bool) -> None:
        super().__init__(text)
        self.is_reporter = is_reporter


def end(message: str, status: int, *, is_reporter: bool = True) -> NoReturn:
    """Print a message on stderr, and end this process with an exit status.

    Args:
        message: text to print if `is_reporter`.
        is_reporter: whether this process prints; False if another process prints the same message.
    """
    ignore_sigterm()
    if is_reporter:
        print(message, file=sys.stderr)
    stopping.kill_workers()
    sys.exit(status)


def ignore_sigterm() -> None:
    """Ignore SIGTERM from now on, so that this process can print its message and exit with its own status.

    A faster process may end first, for the same reason. torchrun then sends SIGTERM to this process.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def report_to_torchrun(error: BaseException) -> None:
    """Report an unexpected error through torchrun, which names the failed process. Without torchrun, do nothing.

    Without torchrun, and before a restart by torchrun, the caller's own traceback is the better report. An error about
    a broken connection is only a consequence of the death of another process. This process then waits, so that torchrun
    reports that death instead.
    """
    stopping.kill_workers()
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return
    if _is_lost_connection(error):
        _wait_for_torchrun()
        end(f"error: process {environment.rank()} lost the others, or waited longer than --timeout: {error}", 1)
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler  # torch is slow to import

    get_error_handler().record_exception(error)
    # Exit without the traceback, which torchrun prints, unless torchrun restarts the processes and prints nothing.
    if os.environ.get("TORCHELASTIC_RESTART_COUNT") == os.environ.get("TORCHELASTIC_MAX_RESTARTS"):
        sys.exit(1)


def _wait_for_torchrun() -> None:
    """Wait until torchrun terminates this process, because torchrun has noticed that another process died."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if stopping.is_requested():  # the SIGTERM has come already
        signal.raise_signal(signal.SIGTERM)
    # Each process waits for another time: the first one to give up makes torchrun terminate the rest.
    time.sleep(PATIENCE + environment.local_rank())


def _is_lost_connection(error: BaseException) -> bool:
    return any(sign in f"{type(error).__name__} {error}" for sign in LOST_CONNECTION)
