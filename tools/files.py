"""Text and JSON files that a reader, or a kill, never meets half written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from backbones.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it.

    Raises:
        UserError: where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON as `write_text` writes text; see there for the errors."""
    write_text(path, json.dumps(value, indent=indent) + "\n")
