"""The exception for user errors, and helpers for its text. This module imports only the standard library."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path


class UserError(ValueError):
    """An error of the user: a wrong option, input or file.

    The text is one line that says what is wrong, where, and how to fix it. Commands print it without a traceback and
    exit with status 2.
    """


class BadImageError(UserError):
    """An image file that is missing or cannot be decoded, and that was read for another image, to be mixed into it.

    Attributes:
        path: the file.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class if it has no text."""
    reason = getattr(error, "reason", None)  # urllib wraps the error of the socket
    text = str(reason if isinstance(reason, BaseException) else error).strip()
    return text.splitlines()[0].strip() if text else type(error).__name__


def counted(number: int, noun: str) -> str:
    """Return a number with a noun, in the plural unless the number is 1: "1 image", "2,000 boxes", "0 categories"."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("och"):  # epochs
        return f"{number:,} {noun}es"
    return f"{number:,} {noun[:-1]}ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else f"{number:,} {noun}s"


def no_folder(path: Path) -> str:
    """Return why a path is not a folder, for a message."""
    return "is a file, not a folder" if path.is_file() else "no such folder"


def first_names(names: Sequence[str], most: int = 5) -> str:
    """Return at most `most` names as text, and the number of the others: "ant, bee and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shortened, names[:most])) + more


def shortened(text: str, most: int = 160) -> str:
    """Return a text of a file in one line of at most `most` characters, for a message."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def require_class(name: str, names: Sequence[str], words: str) -> None:
    """Check the name of a class of a model.

    Args:
        name: the name that the user gave.
        names: the names of the model's classes.
        words: what the user wrote, for the message, such as "--classes dgo".

    Raises:
        UserError: `names` does not contain `name`; the message has similar names.
    """
    if name not in names:
        near = difflib.get_close_matches(str(name), names, 5, 0.5) or names[:10]
        raise UserError(f"{words}: the model has no such class; choose among {', '.join(near)}")


def require(holds: object, name: str, value: object, rule: str) -> None:
    """Check the value of a command-line option.

    Args:
        holds: whether the value is allowed.
        name: the option's name in Python, such as "batch_size".
        value: the value, for the message, unless the option is absent, empty or a switch.
        rule: what is allowed, such as "must be above 0".

    Raises:
        UserError: naming option, value and rule, if `holds` is false.
    """
    if not holds:
        text = "" if value is None or value is True or value in ("", []) else f" {value}"
        raise UserError(f"--{name.replace('_', '-')}{text}: {rule}")
