"""Writes the log of a run: lines of JSON in metrics.jsonl, and TensorBoard events."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from backbones.common.files import write_text
from backbones.errors import UserError
from tools.processes.distributed import is_main, on_main

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Split: TypeAlias = Literal["train", "val"]  # of the images that the values of a line were computed on


class RunLog:
    """Writes `metrics.jsonl` and TensorBoard events on the main process; writes nothing on the others.

    Args:
        folder: the run folder.
        step: number of optimizer steps done so far. Lines of later steps, left by a run that was killed, are removed.
        measured: step of the last evaluation that the checkpoint includes; absent: `step`. Lines of later evaluations
            are removed.
    """

    def __init__(self, folder: Path, *, step: int = 0, measured: int | None = None) -> None:
        self.folder, self.path = folder, folder / "metrics.jsonl"
        on_main(lambda: self._cut_after(step, step if measured is None else measured))
        self._events: SummaryWriter | None = None
        if is_main():
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, object], *, split: Split) -> None:
        """Log JSON values at an optimizer step. Numbers are also written to TensorBoard.

        Raises:
            UserError: the disk is full.
        """
        on_main(lambda: self._write(step, values, split))

    def close(self) -> None:
        """Flush the TensorBoard events."""
        if self._events is not None:
            self._events.close()

    def _write(self, step: int, values: Mapping[str, object], split: Split) -> None:
        line = json.dumps({"step": step, "time": round(time.time(), 3), "split": split, **values})
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); the last checkpoint is complete, so free some "
                "space and continue with --resume"
            ) from None
        for name, value in values.items():
            if isinstance(value, (int, float)) and self._events is not None:
                self._events.add_scalar(_tag(name, split), value, step)

    def _cut_after(self, step: int, measured: int) -> None:
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(self.path, "".join(f"{line}\n" for line in lines if _is_done(line, step, measured)))


def write_summary(folder: Path, options: Mapping[str, object], results: Mapping[str, object], *, step: int) -> None:
    """Write options and final metrics for TensorBoard's table of hyperparameters, and samples.png as a picture.

    Args:
        folder: the run folder.
        options: all options of the run.
        results: of the last evaluation. Its numbers other than counts become the metrics `final/NAME`.
        step: number of optimizer steps.
    """
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    settings = {
        name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for name, value in options.items()
    }
    metrics = {f"final/{name}": value for name, value in results.items() if isinstance(value, float)}
    with SummaryWriter(str(folder / "tensorboard")) as events:
        # The run name "." keeps the table's entry in the folder of the run's curves.
        events.add_hparams(settings, metrics, run_name=".", global_step=step)
        if (picture := folder / "samples.png").is_file():
            with Image.open(picture) as image:
                events.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")


def _tag(name: str, split: Split) -> str:
    """Return the name under which TensorBoard shows a value: "lr", or the split and the name, such as val/loss."""
    return name if name == "lr" else f"{split}/{name.removeprefix(f'{split}_')}"


def _is_done(line: str, step: int, measured: int) -> bool:
    """Return whether a logged line is from the resumed checkpoint's steps or earlier; False if it is incomplete."""
    try:
        values = json.loads(line)
        return values["step"] <= (measured if "epoch" in values else step)
    except (ValueError, TypeError, KeyError):
        return False
