"""Reads the lines of `metadata.jsonl`, Hugging Face's file of an image folder: a JSON object for each image."""

from __future__ import annotations

import json
from collections.abc import Iterator

from backbones.common.datasets import Record

FILE = "metadata.jsonl"


def numbered_objects(text: str) -> Iterator[tuple[int, Record | None]]:
    """Yield the number of each line that is not blank, from 1, and its object; None if the line holds none."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, parse_object(line)


def parse_object(line: str) -> Record | None:
    """Return the JSON object that a line holds; None if it is malformed or holds another value."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
