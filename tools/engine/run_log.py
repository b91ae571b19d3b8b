"""Writes the log of a run, lines of JSON in metrics.jsonl, and passes its values on to the trackers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from backbones.common.files import write_text
from backbones.common.run_files import LOG_FILE
from backbones.errors import UserError
from tools.engine.tracking import Split, Trackers
from tools.processes.distributed import on_main


class RunLog:
    """Writes `metrics.jsonl` on the main process; writes nothing on the others.

    Args:
        folder: the run folder.
        trackers: get the same values; by default none.
        step: number of optimizer steps done so far. Lines of later steps, left by a run that was killed, are removed.
        measured: step of the last evaluation that the checkpoint includes; absent: `step`. Lines of later evaluations
            are removed.
    """

    def __init__(
        self, folder: Path, trackers: Trackers | None = None, *, step: int = 0, measured: int | None = None
    ) -> None:
        self.folder, self.path = folder, folder / LOG_FILE
        self.trackers = Trackers({}) if trackers is None else trackers
        on_main(lambda: self._cut_after(step, step if measured is None else measured))

    def write(self, step: int, values: Mapping[str, object], *, split: Split) -> None:
        """Log JSON values at an optimizer step, and pass them on to the trackers.

        Raises:
            UserError: the disk is full.
        """
        on_main(lambda: self._write(step, values, split))
        self.trackers.log(step, values, split=split)

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

    def _cut_after(self, step: int, measured: int) -> None:
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(self.path, "".join(f"{line}\n" for line in lines if _is_done(line, step, measured)))


def _is_done(line: str, step: int, measured: int) -> bool:
    """Return whether a logged line is from the resumed checkpoint's steps or earlier; False if it is incomplete."""
    try:
        values = json.loads(line)
        return values["step"] <= (measured if "epoch" in values else step)
    except (ValueError, TypeError, KeyError):
        return False
