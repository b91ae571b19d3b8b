"""TODO-DOC tools/engine/recipes.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.cli.parsing import peek_option


def resumed_config(argv: Sequence[str], *, prefix: str) -> Path | None:
    """The options of the run that `--resume` goes on with, or None without that option or such a file.

    Args:
        prefix: of the run folders that a script names by itself; the newest is taken where no `--output` names one.
    """
    if str(peek_option(argv, "resume")).lower() != "true":
        return None
    from tools.engine.run_folder import newest_run

    folder = peek_option(argv, "output")
    config = (Path(folder) if folder else newest_run(prefix)) / "config.yaml"
    return config if config.is_file() else None


def named_recipe(argv: Sequence[str], folder: Path) -> Path | None:
    """The file of `--recipe` in `folder`: by default standard where `--data` names some, else shapes.

    None for an unknown name, which the parser refuses in its own words.
    """
    named = str(peek_option(argv, "recipe") or "auto")
    if named == "auto":
        named = "standard" if peek_option(argv, "data") else "shapes"
    path = folder / f"{named}.yaml"
    return path if path.is_file() else None
