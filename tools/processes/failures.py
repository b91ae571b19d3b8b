"""How one of several processes ends: with one message among all of them, and without the others waiting for it.

torchrun looks after its processes ten times a second, ends them all once one has failed, and says which that was.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NoReturn

from backbones.errors import UserError
from tools.processes import stopping

PATIENCE = 10.0  # seconds in which torchrun has surely noticed a process that died
# Of errors that tell that another process is gone.
LOST = ("gloo/transport", "DistNetworkError", "DistBackendError", "DistStoreError")


class SharedError(UserError):
    """A mistake that several processes know of.

    Attributes:
        speaks: whether this process is the one of them to print it.
    """

    def __init__(self, text: str, *, speaks: bool) -> None:
        super().__init__(text)
        self.speaks = speaks


def end(message: str, status: int, *, speaks: bool = True) -> NoReturn:
    """End this process, with the message where it is the one to print it."""
    end_by_itself()
    if speaks:
        print(message, file=sys.stderr)
    stopping.end_workers()
    sys.exit(status)


def end_by_itself() -> None:
    """Keep torchrun from ending this process, when it sees that a quicker one has ended for the same reason."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def is_first() -> bool:
    """Whether this process speaks for all where all have the same to say."""
    return int(os.environ.get("RANK", 0)) == 0


def is_first_of_machine() -> bool:
    """Whether this process speaks for those that have the same files."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def hand_over(error: BaseException) -> None:
    """Leave an error that is no mistake of the user to torchrun, where that tells more; returns where it does not.

    It shows a traceback with the process that it is of, unless it starts the processes anew. A connection that broke
    is no news beside the death that broke it: torchrun has the time to see that one, and to end this process.
    """
    stopping.end_workers()
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return
    if _is_lost_contact(error):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if stopping.asked():
            signal.raise_signal(signal.SIGTERM)
        time.sleep(PATIENCE + int(os.environ["LOCAL_RANK"]))  # one after the other: the first ends the rest
        end(f"error: process {os.environ['RANK']} lost the others, or waited longer than --timeout: {error}", 1)
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)
    if os.environ.get("TORCHELASTIC_RESTART_COUNT") == os.environ.get("TORCHELASTIC_MAX_RESTARTS"):
        sys.exit(1)


def _is_lost_contact(error: BaseException) -> bool:
    return any(sign in f"{type(error).__name__} {error}" for sign in LOST)
