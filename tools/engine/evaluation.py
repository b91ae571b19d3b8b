"""TODO-DOC tools/engine/evaluation.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from backbones.fold import Folds
from tools.engine import nonfinite
from tools.engine.state import Precision
from tools.processes import distributed, stopping
from tools.processes.stopping import Stopped


class Evaluator(Protocol):
    """What turns predictions into numbers; its state travels between processes."""

    def update(self, predictions: Any, targets: Any) -> None: ...

    def state(self) -> Any: ...

    def merge(self, states: Iterable[Any]) -> None: ...

    def compute(self) -> dict[str, Any]: ...


@torch.inference_mode()
def evaluate(
    model: Any, loader: DataLoader, evaluator: Evaluator, *, precision: Precision, losses: bool = False
) -> dict[str, Any]:
    """Predict every image of every process's shard, and compute the metrics of all of them together.

    Weights, the main process's buffers and the random state stay as they are.

    Args:
        model: the bare model, not its DistributedDataParallel wrapper.
        losses: measure the training loss as well, in the same pass: `model.predict_with_losses(images, targets)` gives
            predictions and losses. Means over the images come as `val_loss` and `val_<term>`.

    Raises:
        Stopped: on every process, where one was asked to end.
    """
    before = model.training
    model.eval()
    stopping.shield(loader)
    # Each process gathered batch statistics of its own; what is measured is what the main process saves.
    distributed.share_buffers(model)
    folds, sums = Folds(), MeanLosses()

    def predict() -> None:
        for batch in tqdm(loader, "evaluating", leave=False, disable=not distributed.is_main()):
            if stopping.asked():
                break
            images, targets = to_device(batch, precision.device)
            with precision.autocast(), folds:
                if losses:
                    predictions, terms = model.predict_with_losses(images, targets)
                    sums.add(terms, len(nonfinite.image_ids(targets)))
                else:
                    predictions = model(images)
            evaluator.update(predictions, targets)

    with same_draws(precision.device) if losses else nullcontext():
        distributed.on_all(predict)
    model.train(before)
    states, losses_of, stops = zip(*distributed.all_gather((evaluator.state(), sums, stopping.asked())), strict=True)
    if any(stops):
        raise Stopped("stopped within an evaluation, which is to be made again")
    evaluator.merge(states)
    return {**distributed.on_main(evaluator.compute), **MeanLosses.figures(losses_of)}


def to_device(value: Any, device: torch.device) -> Any:
    """The tensors inside lists, tuples and dicts, moved to a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


SEED = 0  # of what losses sample, such as a detector's anchors: the same in every evaluation


class MeanLosses:
    """Sums of one process's batches, and the means over all processes."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.images = 0

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Add a batch of `images` images, each term their mean."""
        self.images += images
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(loss) * images

    @staticmethod
    def figures(parts: Iterable[MeanLosses]) -> dict[str, float | None]:
        """`val_<term>`, and `val_loss` for their sum; None for what is no number. Empty where nothing was added."""
        parts = list(parts)
        images = sum(part.images for part in parts)
        names = dict.fromkeys(name for part in parts for name in part.sums)
        means = {f"val_{name}": sum(part.sums.get(name, 0.0) for part in parts) / images for name in names}
        if means:
            means = {"val_loss": sum(means.values()), **means}
        return {name: value if math.isfinite(value) else None for name, value in means.items()}


@contextmanager
def same_draws(device: torch.device) -> Iterator[None]:
    """Random numbers from the same seed each time; afterwards the generators go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        yield
