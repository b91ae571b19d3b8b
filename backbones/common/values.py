"""Checks of single values that come from a file: texts, names of files, numbers."""

from __future__ import annotations

import os

LONGEST_NAME = 4096  # bytes of a path on Linux; an array of names is as wide as its longest name
LONGEST_SIDE = 2**20  # pixels; OpenCV decodes no longer sides
LARGEST_NUMBER = 1e300  # of coordinates; the sum of two is finite


def is_file_name(value: object) -> bool:
    """Return whether a value can be the name of a file."""
    try:
        return isinstance(value, str) and 0 < len(os.fsencode(value)) < LONGEST_NAME and "\0" not in value
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def is_text(value: object) -> bool:
    """Return whether a value is a string that UTF-8 can encode.

    JSON strings may contain single surrogates, which it cannot.
    """
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, small enough to be added to another one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER
