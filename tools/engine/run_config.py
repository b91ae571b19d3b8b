"""Writes the options of a run into its folder: config.yaml, which --config and --resume read, and splits.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from backbones.common.data_split import SPLITS_FILE, DataSplit
from backbones.common.files import JsonObject, read_yaml, write_json, write_text
from backbones.common.run_files import CONFIG_FILE


def write_start(folder: Path, config: JsonObject, split: DataSplit | None) -> None:
    """Write the options of a new run, and how its training images were split.

    Args:
        split: None if the data have a validation split of their own.
    """
    if split is not None:
        write_json(folder / SPLITS_FILE, split.as_json())
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    # --config trains with the options of this file, also if the run was an evaluation.
    _write(folder, {**values, "eval_only": False})


def update_config(folder: Path, changed: Mapping[str, object]) -> None:
    """Write options that were changed on resuming, so that the next --resume reads their new values."""
    _write(folder, {**read_yaml(folder / CONFIG_FILE), **changed})


def _write(folder: Path, values: JsonObject) -> None:
    write_text(folder / CONFIG_FILE, yaml.safe_dump(values, sort_keys=False))
