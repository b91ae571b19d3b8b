"""Finds the YAML file with a training command's defaults: config.yaml of the run to resume, or a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.cli.parsing import peek_option


def resumed_config(argv: Sequence[str], *, prefix: str) -> Path | None:
    """Return config.yaml of the run that `--resume` continues; None without `--resume`, or if there is no such file.

    Args:
        prefix: first part of the names of run folders; without `--output` the newest of these runs is resumed.

    Raises:
        UserError: there is no run to resume.
    """
    if str(peek_option(argv, "resume")).lower() != "true":
        return None
    from tools.engine.run_folder import newest_run  # imports torch

    folder = peek_option(argv, "output")
    config = (Path(folder) if folder else newest_run(prefix)) / "config.yaml"
    return config if config.is_file() else None


def named_recipe(argv: Sequence[str], folder: Path) -> Path | None:
    """Return the file of `--recipe` in a folder, or None for an unknown name, which the parser refuses.

    The recipe "auto" is "standard" if `--data` is given, else "shapes".
    """
    name = str(peek_option(argv, "recipe") or "auto")
    if name == "auto":
        name = "standard" if peek_option(argv, "data") else "shapes"
    path = folder / f"{name}.yaml"
    return path if path.is_file() else None
