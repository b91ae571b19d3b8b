"""The one exception for mistakes that a user can mend; it imports nothing, so that every module can raise it."""

from __future__ import annotations

from typing import Any


class UserError(ValueError):
    """An input, option or file is wrong: the text says what, where and the way out, in one line.

    Scripts print it without a traceback and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its kind: the user gets one line in all."""
    reason = getattr(error, "reason", None)  # urllib wraps the error of the socket
    text = str(reason if isinstance(reason, BaseException) else error).strip()
    return text.splitlines()[0].strip() if text else type(error).__name__


def require(holds: Any, name: str, value: Any, rule: str) -> None:
    """Refuse an option's value.

    Raises:
        UserError: naming the option, its value and the rule, unless `holds`.
    """
    if not holds:
        raise UserError(f"--{name.replace('_', '-')} {value}: {rule}")
