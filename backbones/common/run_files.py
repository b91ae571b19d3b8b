"""Names of the files in the folder of a training run, and the options that continue the run."""

from __future__ import annotations

import shlex
from pathlib import Path

CONFIG_FILE = "config.yaml"  # all options, as --config and --resume read them
LOG_FILE = "metrics.jsonl"  # a line for each logged step and each evaluation
MODEL_FILE = "model.safetensors"  # the delivered weights, with a header
RESULTS_FILE = "results.json"  # metrics of the delivered weights


def resume_options(folder: Path) -> str:
    """Return the options of a training command that continue the run in a folder, for a message."""
    return f"--resume --output {shlex.quote(str(folder))}"
