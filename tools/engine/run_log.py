"""TODO-DOC tools/engine/run_log.py."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from backbones.common.files import write_text
from backbones.errors import UserError
from tools.processes.distributed import is_main, on_main


class RunLog:
    """Writes `metrics.jsonl` and TensorBoard events on the main process; silent on the others.

    Args:
        folder: the run folder.
        step: optimizer steps done so far; lines of later steps, left by a killed run, are cut off.
        measured: the step of the last evaluation that counts; absent: `step`. Lines of later ones are cut off.
    """

    def __init__(self, folder: Path, *, step: int = 0, measured: int | None = None) -> None:
        self.folder, self.path = folder, folder / "metrics.jsonl"
        on_main(lambda: self._cut_after(step, step if measured is None else measured))
        if is_main():
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log numbers (others are left out of TensorBoard) under an optimizer step.

        Raises:
            UserError: where the disk is full.
        """
        on_main(lambda: self._write(step, values))

    def _write(self, step: int, values: dict[str, Any]) -> None:
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values})
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); the checkpoint is whole") from None
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the TensorBoard events."""
        if is_main():
            self._events.close()

    def _cut_after(self, step: int, measured: int) -> None:
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(self.path, "".join(f"{line}\n" for line in lines if _counts(line, step, measured)))


def _counts(line: str, step: int, measured: int) -> bool:
    """Whether a logged line belongs to what is done; one torn by a kill or a full disk does not."""
    try:
        values = json.loads(line)
        return values["step"] <= (measured if "epoch" in values else step)
    except (ValueError, TypeError, KeyError):
        return False
