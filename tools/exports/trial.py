"""Trial of an ONNX file in a process of its own, because an operator that fails may end its process without a word.

Quantisation runs in such a process as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from backbones.errors import UserError
from tools.exports.exportable import Exportable, Inputs

# Runs the file argv[1] on all inputs argv[2], arrays that are named after the number and the input.
PROGRAM = """
import sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
arrays = np.load(sys.argv[2])
for number in range(len(arrays) // len(session.get_inputs())):
    session.run(None, {each.name: arrays[f"{number} {each.name}"] for each in session.get_inputs()})
"""


def try_file(path: Path, exportable: Exportable) -> None:
    """Run a file on the model's inputs without objects, in a process of its own.

    Raises:
        UserError: the process ends with an error, or is killed by a signal.
    """
    if not exportable.blanks:
        return
    with TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        save_inputs(inputs, exportable.file_inputs, exportable.blanks)
        reason = run_alone(PROGRAM, path, inputs, folder=Path(folder))
    if reason:
        raise UserError(
            f"the exported file fails on an image without objects ({reason}); no file was kept; leave --int8 "
            "out, or export another model"
        )


def save_inputs(path: Path, names: Sequence[str], items: Sequence[Inputs]) -> None:
    """Save inputs of images for another process, as arrays that are named after the number and the input."""
    named: dict[str, Any] = {
        f"{number} {name}": tensor.numpy()
        for number, item in enumerate(items)
        for name, tensor in zip(names, item, strict=True)
    }
    np.savez(path, **named)  # NumPy 2.0 knows no `allow_pickle` here


def run_alone(program: str, *arguments: str | Path, folder: Path) -> str | None:
    """Run a Python program in a process of its own.

    Args:
        arguments: its `sys.argv[1:]`.
        folder: for its temporary files, so that the caller can remove them after a crash.

    Returns:
        Why the process failed, or None if it ended well: its signal, or the last line that it printed.
    """
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(folder)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode < 0:
        return signal.Signals(-ended.returncode).name
    lines = ended.stderr.strip().splitlines()
    return (lines[-1] if lines else f"status {ended.returncode}") if ended.returncode else None
