"""TODO-DOC tools/cli/ending.py."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from backbones.errors import UserError
from tools.processes import failures
from tools.processes.failures import SharedError
from tools.processes.stopping import STATUS, Stopped

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what the system says of a full disk, or of more than one's share


def run(main: Callable[[], object]) -> None:
    """Run a script's `main`: a mistake of the user, or a full disk, becomes one line on stderr and exit status 2.

    A training that was stopped by a signal, and can go on, ends with `stopping.STATUS`.
    """
    try:
        main()
    except UserError as error:
        failures.end(f"error: {_one_line(error)}", 2, speaks=not isinstance(error, SharedError) or error.speaks)
    except Stopped as stop:
        failures.end(str(stop), STATUS, speaks=failures.is_first())
    except KeyboardInterrupt as stop:
        failures.end(str(stop) or "interrupted", INTERRUPTED, speaks=failures.is_first())
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            where = error.filename or "a file"
            failures.end(f"error: {where}: cannot be written ({error.strerror}); make room", 2)
        failures.hand_over(error)
        raise


def _one_line(error: BaseException) -> str:
    # An error of a data worker arrives with the worker's traceback in its text.
    return " ".join(str(error).rsplit("UserError: ", 1)[-1].split())
