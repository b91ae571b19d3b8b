"""Runs a command: prints user errors as one line and sets the exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable

from backbones.errors import UserError, shortened
from tools.processes import environment, failures
from tools.processes.failures import SharedError
from tools.processes.stopping import STATUS, Stopped

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
# Keywords of the library that are options of the commands, as its messages name them.
_KEYWORD = re.compile(
    r"(?<![^\s(])(weights|norm|shortcut|stride_style|in_channels|output_stride|max_stride)=('[^']*'|[\w.]*\w)"
)
_NAMED = ("unknown weights_from ", "unknown --weights-from ")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk or the user's quota is full, or the file too large
# No file can have the name, or the user may not open the file.
BAD_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS)
LONGEST_WORD = 1000  # characters of a word in a message


def run(main: Callable[[], object]) -> None:
    """Run a command's `main`; print a user error as one line on stderr and exit with status 2.

    Exit statuses: 2 for a user error, a path that cannot be opened or a full disk, `stopping.STATUS` for a training
    that was stopped by a signal and can be resumed, `INTERRUPTED` for Ctrl-C. Any other exception is a bug and keeps
    its traceback.
    """
    try:
        main()
    except UserError as error:
        is_reporter = error.is_reporter if isinstance(error, SharedError) else True
        failures.end(f"error: {_one_line(error)}", 2, is_reporter=is_reporter)
    except Stopped as stop:
        failures.end(str(stop), STATUS, is_reporter=environment.is_main())
    except KeyboardInterrupt as stop:
        failures.end(str(stop) or "interrupted", INTERRUPTED, is_reporter=environment.is_main())
    except BrokenPipeError:  # the reader of our output has ended, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if isinstance(error, OSError):
            _end_for_file(error)
        failures.report_to_torchrun(error)
        raise


def _end_for_file(error: OSError) -> None:
    """End the command if an error of the operating system is the fault of a path or of a full disk."""
    file = shortened(str(error.filename or "a file"))
    if error.errno in DISK_FULL:
        failures.end(f"error: {file}: cannot be written ({error.strerror}); free some disk space", 2)
    if error.errno in BAD_PATH and error.filename is not None:  # not a socket, for example
        text = f"error: {file}: cannot be opened ({error.strerror}); check the path and its permissions"
        failures.end(text, 2, is_reporter=environment.is_main_of_machine())


def _one_line(error: BaseException) -> str:
    """Return an error's message in one line, without the traceback that a data-loading worker's error contains."""
    words = str(error).rsplit("UserError: ", 1)[-1].split()
    return as_options(" ".join(shortened(word) if len(word) > LONGEST_WORD else word for word in words))


def as_options(text: str) -> str:
    """Return a message of the library in the words of a command line: `--weights none` for `weights=None`.

    Code in backticks stays as it is.
    """
    parts = text.split("`")
    parts[::2] = [_KEYWORD.sub(_as_option, part).replace(*_NAMED) for part in parts[::2]]
    return "`".join(parts)


def _as_option(keyword: re.Match[str]) -> str:
    name, value = keyword[1].replace("_", "-"), keyword[2].strip("'")
    return f"--{name} {'none' if value == 'None' and name == 'weights' else value}"
