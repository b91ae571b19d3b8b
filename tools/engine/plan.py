"""TODO-DOC tools/engine/plan.py."""

from __future__ import annotations

from typing import Any

from tools.processes import distributed

LIVE_NORM_IMAGES = 8  # fewer make batch statistics noisy


def print_plan(rows: dict[str, Any]) -> None:
    """Print what is about to happen, one fact a line, on the main process."""
    if distributed.is_main():
        width = max(len(name) for name in rows)
        for name, value in rows.items():
            print(f"{name:<{width}}  {value}")
        print(flush=True)
