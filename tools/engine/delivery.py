"""The model that a run delivers, the best one or the last: in model.safetensors, results, predictions and pictures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from backbones.common.run_files import MODEL_FILE
from backbones.errors import UserError
from tools.engine import checkpoint
from tools.engine.run_folder import BEST
from tools.engine.state import Training
from tools.processes import distributed

Which: TypeAlias = Literal["best", "last"]


@dataclass(frozen=True)
class Delivery:
    """The model that a run delivers: the best one or the last.

    Attributes:
        model: "best" or "last".
        replaced: whether the delivered weights are not those of the last step.
        step: number of steps after which the delivered model was saved; None if an earlier version did not record it.
    """

    model: Which
    replaced: bool
    step: int | None

    def is_best(self, training: Training) -> bool:
        """Return whether the delivered model is that of the best score, which may be the last one too."""
        return self.model == "best" or (self.step is not None and self.step == training.best_step)

    def facts(self, training: Training) -> dict[str, object]:
        """Return the entry `delivered` of results.json: model ("best" or "last"), step and epoch."""
        return {"delivered": {"model": self.model, "step": self.step, "epoch": _epoch(self.step, training)}}

    def describe(self, training: Training, folder: Path, metric: str) -> str:
        """Return the last lines that a run prints: best score, epoch and file."""
        if training.best is None:
            return f"no evaluation gave a {metric}; the last model is {folder / MODEL_FILE}"
        best_file, when = (MODEL_FILE if self.is_best(training) else BEST), _when(training.best_step, training)
        lines = [f"best {metric} {training.best:.4f}{when}: {folder / best_file}"]
        if self.model == "last":
            lines.append(f"last model{_when(self.step, training)}: {folder / MODEL_FILE}")
        return "\n".join(lines)


def deliver(training: Training, folder: Path, *, wanted: Which) -> Delivery:
    """Load the best weights into `training.evaluated` if `wanted` is "best". All processes must call this.

    If checkpoint/best.safetensors does not belong to the best score, the main process warns and the last model is
    delivered.
    """
    last = Delivery("last", False, training.step)
    if wanted == "last" or training.best is None:
        return last
    if training.best_step == training.step:
        return Delivery("best", False, training.step)
    if not distributed.on_main(lambda: _load_best(training, folder / BEST)):
        return last
    distributed.broadcast_weights(training.evaluated)
    return Delivery("best", True, training.best_step)


def _load_best(training: Training, path: Path) -> bool:
    """Load the best weights on this process. If the file does not hold them, warn and return False."""
    try:
        header, tensors = checkpoint.read_safetensors(path)
    except UserError as error:
        print(f"warning: {error}; the last model is delivered instead of the best", file=sys.stderr)
        return False
    if header.get("step", "None") != str(training.best_step):
        found = f"is of step {header.get('step')}, the best score of step {training.best_step}"
        print(f"warning: {path}: {found}; the last model is delivered instead of the best", file=sys.stderr)
        return False
    training.evaluated.load_state_dict(tensors)
    return True


def _epoch(step: int | None, training: Training) -> float | None:
    return None if step is None or not training.steps_per_epoch else round(step / training.steps_per_epoch, 3)


def _when(step: int | None, training: Training) -> str:
    epoch = _epoch(step, training)
    return "" if epoch is None else f", after epoch {epoch:g}"
