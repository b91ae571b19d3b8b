"""Evaluates a model: each process predicts its part of the data, and the metrics cover all processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from backbones.common.files import JsonObject
from backbones.fold import Folds
from tools.engine.batches import Batch, image_ids, to_device
from tools.engine.compiling import uncompiled
from tools.engine.state import Precision
from tools.processes import distributed, stopping
from tools.processes.stopping import Stopped

Results: TypeAlias = JsonObject  # as results.json holds them
SEED = 0  # of the random samples in losses, such as a detector's anchors: the same in every evaluation

Predictions = TypeVar("Predictions", contravariant=True)
Targets = TypeVar("Targets", contravariant=True)
State = TypeVar("State")


class Evaluator(Protocol[Predictions, Targets, State]):
    """Accumulates predictions and computes metrics. `state()` and `merge()` combine several processes."""

    def update(self, predictions: Predictions, targets: Targets) -> None:
        """Add the predictions of a batch."""

    def state(self) -> State:
        """Return the predictions that this process has added so far, as picklable values."""

    def merge(self, states: Sequence[State]) -> None:
        """Replace this evaluator's state by the states of all processes, given in order of rank."""

    def compute(self) -> Results:
        """Return the metrics of all predictions added so far, by name."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    evaluator: Evaluator[Any, Any, Any],
    *,
    precision: Precision,
    losses: bool = False,
) -> Results:
    """Predict the images of this process, and return metrics over the images of all processes.

    The weights, the main process's buffers and the random state do not change.

    Args:
        model: the bare model, not its DistributedDataParallel wrapper.
        loader: batches of this process.
        losses: also compute the training losses, in the same pass: `model.predict_with_losses(images, targets)` must
            return predictions and losses. Their means over the images are returned as `val_loss` and `val_<term>`.

    Raises:
        Stopped: on every process, if any process received a signal to stop.
    """
    before = model.training
    model.eval()
    stopping.protect_workers(loader)
    # Batch statistics differ between processes. Evaluate those of the main process, which are the ones it saves.
    distributed.broadcast_buffers(model)
    folds, sums = Folds(), MeanLosses()

    def predict() -> None:
        for batch in tqdm(loader, "evaluating", leave=False, disable=not distributed.is_main()):
            if stopping.is_requested():
                break
            images, targets = to_device(batch, precision.device)
            # Predict with convolution and batch norm folded into one operation.
            with precision.autocast(), folds:
                if losses:
                    predictions, terms = model.predict_with_losses(images, targets)  # type: ignore[operator]
                    sums.add(terms, len(image_ids(targets)))
                else:
                    predictions = model(images)
            evaluator.update(predictions, targets)

    with without_benchmark(), uncompiled(model), same_draws(precision.device) if losses else nullcontext():
        # A user error of one process, such as an unreadable image, ends all processes.
        distributed.on_all(predict)
    model.train(before)
    # Send every process's predictions and losses to all processes.
    parts = distributed.all_gather((evaluator.state(), sums, stopping.is_requested()))
    states, losses_of, stops = zip(*parts, strict=True)
    if any(stops):
        raise Stopped("stopped within an evaluation, which will be repeated on --resume")
    # Combine them in order of rank, so that the result does not depend on which process was faster.
    evaluator.merge(states)
    # Compute the metrics once, and give every process the same numbers.
    return {**distributed.on_main(evaluator.compute), **MeanLosses.figures(losses_of)}


class MeanLosses:
    """Accumulates the losses of one process's batches. `figures` returns the means over all processes."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.images = 0

    def add(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Add the losses of a batch of `images` images. Each loss is a mean over these images."""
        self.images += images
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(loss) * images

    @staticmethod
    def figures(parts: Iterable[MeanLosses]) -> dict[str, float | None]:
        """Return the mean of each loss term as `val_<term>`, and their sum `val_loss`. A value not finite is None.

        Without losses, return {}.
        """
        parts = list(parts)
        images = sum(part.images for part in parts)
        names = dict.fromkeys(name for part in parts for name in part.sums)
        means = {f"val_{name}": sum(part.sums.get(name, 0.0) for part in parts) / images for name in names}
        if means:
            means = {"val_loss": sum(means.values()), **means}
        return {name: value if math.isfinite(value) else None for name, value in means.items()}


@contextmanager
def without_benchmark() -> Iterator[None]:
    """Context manager that turns off cuDNN's choice of algorithms by timing: evaluated images differ in size."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def same_draws(device: torch.device) -> Iterator[None]:
    """Context manager that seeds the random generators with a constant and restores their previous state at the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        yield
