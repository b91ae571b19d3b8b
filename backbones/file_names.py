"""What a name in somebody's data set may be before it becomes a path."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

LONGEST_NAME = 4096  # bytes that a path may have on Linux; an array of names is as wide as its longest


def is_file_name(value: Any) -> bool:
    """Whether a value can name a file."""
    try:
        return isinstance(value, str) and 0 < len(os.fsencode(value)) < LONGEST_NAME and "\0" not in value
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False


def is_text(value: Any) -> bool:
    """Whether a value is a text that a file can hold; JSON can spell half of a pair of surrogates, which none can."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def leads_out(name: str) -> bool:
    """Whether a file name may leave its folder by its text; links may point where their owner likes.

    Any `..` counts: behind a link it leads elsewhere than its text says.
    """
    return os.path.isabs(name) or os.pardir in PurePath(name).parts
