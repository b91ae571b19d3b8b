"""Trial of an ONNX file in a process of its own, because an operator that fails may end its process without a word."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from backbones.errors import UserError
from tools.exports.exportable import Exportable

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
        named = [
            (f"{number} {name}", tensor.numpy())
            for number, blank in enumerate(exportable.blanks)
            for name, tensor in zip(exportable.inputs, blank, strict=True)
        ]
        np.savez(inputs, allow_pickle=False, **dict(named))
        command = [sys.executable, "-c", PROGRAM, str(path), str(inputs)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise UserError(
            f"the exported file fails on an image without objects ({_reason(ended)}); no file was kept; leave --int8 "
            "out, or export another model"
        )


def _reason(ended: subprocess.CompletedProcess[str]) -> str:
    """Return why a process failed: its signal, or the last line that it printed."""
    if ended.returncode < 0:
        return signal.Signals(-ended.returncode).name
    lines = ended.stderr.strip().splitlines()
    return lines[-1] if lines else f"status {ended.returncode}"
