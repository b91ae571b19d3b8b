"""Chooses the fastest file for a CPU among those that are as good as the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from backbones.errors import UserError
from backbones.weights.exported import ExportedFile
from tools.exports.exportable import Inputs
from tools.exports.files import latencies

Proof = Callable[[Path], dict[str, str]]


def choose_fastest(candidates: Mapping[str, Path], inputs: Inputs, prove: Proof) -> tuple[str, dict[str, str]]:
    """Return the name of the fastest candidate that passes its proof, and what was found.

    Args:
        candidates: files by name.
        inputs: of one image.
        prove: compares a file with the run, and raises a UserError if it may not be used.

    Raises:
        UserError: no candidate passes.
    """
    runs = [_runner(ExportedFile(path)) for path in candidates.values()]
    times = dict(zip(candidates, latencies(runs, inputs, repeats=20), strict=True))
    found = {f"ms {name}": f"{ms:.2f}" for name, ms in times.items()}
    for name in sorted(times, key=lambda each: times[each]):
        try:
            return name, found | prove(candidates[name]) | {"chosen": name}
        except UserError as error:
            found[f"not {name}"] = str(error)
    reasons = "; ".join(text for title, text in found.items() if title.startswith("not "))
    raise UserError(f"--for cpu: no file is as good as the run ({reasons}); name a --format and a precision")


def _runner(file: ExportedFile) -> Callable[[Inputs], list[Tensor]]:
    return lambda inputs: file(*inputs)
