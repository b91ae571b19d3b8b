"""The history of a run: stops at values that are not finite, and options that were changed on resuming.

Each event is one line of JSON in history.jsonl of the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from backbones.common.files import JsonObject
from backbones.errors import UserError

HISTORY = "history.jsonl"
NOT_FINITE, CHANGED = "not finite", "options changed"  # values of "event"


def note(folder: Path, event: str, *, step: int, **facts: object) -> None:
    """Append an event to the history of a run.

    Args:
        step: optimizer step at which the event happened.
        facts: further JSON values.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with open(folder / HISTORY, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "step": step, **facts}) + "\n")
    except OSError as error:
        raise UserError(f"{folder / HISTORY}: cannot be written ({error.strerror}); free space") from None


def stops_at_nonfinite(folder: Path) -> list[int]:
    """Return the steps at which the run stopped because a value was not finite."""
    return [event["step"] for event in _events(folder) if event["event"] == NOT_FINITE]


def changed_options(folder: Path) -> Mapping[str, object]:
    """Return {"options_changed": the changes in order} for results.json; {} if no option was changed."""
    changes = [event for event in _events(folder) if event["event"] == CHANGED]
    return (
        {"options_changed": [{"step": each["step"], "options": each["options"]} for each in changes]} if changes else {}
    )


def _events(folder: Path) -> list[JsonObject]:
    """Return the events of the history. A last line that is incomplete is left out."""
    path = folder / HISTORY
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("step"), int) and "event" in event:
            events.append(event)
    return events
