"""Reads JSON files of annotation tools."""

from __future__ import annotations

import json
from pathlib import Path

from backbones.errors import UserError


def read_json(path: Path) -> object:
    """Read a JSON file, with or without a byte order mark.

    Raises:
        UserError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); export the file again") from None
