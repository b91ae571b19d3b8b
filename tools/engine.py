"""The training loop and the evaluation loop, for every task.

A task hands over a model that turns `model(images, targets)` into a dict of scalar losses in training mode and
`model(images)` into predictions in evaluation mode, loaders of `(images, targets)` batches, and an evaluator with
`update(predictions, targets)`, `state()`, `merge(states)` and `compute() -> dict`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from backbones.errors import UserError
from backbones.fold import Folds
from tools import distributed
from tools.optim import memory_order
from tools.run_log import RunLog

LOG_EVERY = 20  # optimizer steps between logged lines


class Evaluator(Protocol):
    """What turns predictions into numbers; its state travels between processes."""

    def update(self, predictions: Any, targets: Any) -> None: ...

    def state(self) -> Any: ...

    def merge(self, states: Iterable[Any]) -> None: ...

    def compute(self) -> dict[str, Any]: ...


class Batches(Protocol):
    """How the batches of an epoch are counted, and where the loader begins."""

    batch_size: int
    accumulate: int

    @property
    def steps(self) -> int: ...

    def seek(self, epoch: int, step: int = 0) -> None: ...


@dataclass
class Precision:
    """How numbers are computed: autocast's type, and the scaler that fp16 needs."""

    device: torch.device
    dtype: torch.dtype
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


@dataclass
class Training:
    """Everything that changes while a net is trained."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Scheduler
    precision: Precision
    ema: ModelEmaV3 | None = None
    epoch: int = 0
    epoch_step: int = 0
    step: int = 0
    best: float | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The net to evaluate and to save: the moving average where there is one."""
        return self.ema.module if self.ema else distributed.unwrap(self.model)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and JSON values; the random state is this process's own."""
        return {
            "model": distributed.unwrap(self.model).state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "epoch": self.epoch,
            "epoch_step": self.epoch_step,
            "step": self.step,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`'s output."""
        distributed.unwrap(self.model).load_state_dict(state["model"])
        if self.ema and state["ema"] is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        _lay_out_like_weights(self.optimizer)
        self.precision.scaler.load_state_dict(state["scaler"])
        for name in ("epoch", "epoch_step", "step", "best"):
            setattr(self, name, state[name])
        self.schedule.step_update(self.step)


def fit(
    training: Training,
    loader: DataLoader,
    *,
    epochs: int,
    batches: Batches,
    log: RunLog,
    evaluate: Callable[[], dict[str, Any]],
    save: Callable[[str], None],
    metric: str,
    eval_every: int = 1,
    eval_steps: int = 0,
    checkpoint_every: int = 500,
    clip_norm: float = 0.0,
) -> dict[str, Any]:
    """Train to the end of the last epoch; evaluate, log and save along the way.

    Args:
        loader: yields this process's batches of an epoch, beginning where `batches` was told to.
        batches: `distributed.TrainBatches`, or a stream's like of them.
        evaluate: measures `training.evaluated`.
        eval_steps: optimizer steps between further evaluations within the epochs; 0 for none.
        save: called with "last" and, after a new best value of `metric`, with "best".

    Returns:
        The last evaluation's results.
    """
    results: dict[str, Any] = {}

    def measure() -> None:
        results.update(evaluate())
        done = training.epoch + training.epoch_step / batches.steps
        log.write(training.step, {"epoch": done, **results})
        _announce(progress, done, metric, results)
        if _is_best(training, results[metric]):
            save("best")

    with _progress(epochs * batches.steps, training.step, batches.batch_size) as progress:
        for epoch in range(training.epoch, epochs):
            batches.seek(epoch, training.epoch_step)
            for losses in train_epoch(training, loader, accumulate=batches.accumulate, clip_norm=clip_norm):
                _report(training, losses, log, progress, batches, epochs)
                within = training.epoch_step < batches.steps
                if within and eval_steps and training.step % eval_steps == 0:
                    measure()
                if within and training.step % checkpoint_every == 0:
                    save("last")
            training.epoch, training.epoch_step = epoch + 1, 0
            if training.epoch % eval_every == 0 or training.epoch == epochs:
                measure()
            save("last")
    return results


def _is_best(training: Training, score: float | None) -> bool:
    """Whether a score is the best so far; it is remembered then."""
    better = score is not None and (training.best is None or score > training.best)
    if better:
        training.best = score
    return better


def train_epoch(
    training: Training, loader: DataLoader, *, accumulate: int = 1, clip_norm: float = 0.0
) -> Iterable[dict[str, torch.Tensor]]:
    """One pass over the training images; yields the losses of each optimizer step, averaged over its batches."""
    model, precision = training.model, training.precision
    model.train()
    sums: dict[str, torch.Tensor] = {}
    for position, batch in enumerate(loader, start=1):
        images, targets = to_device(batch, precision.device)
        last = position % accumulate == 0
        # Gradients travel between the processes once per step, with the last of its batches.
        with _no_sync(model, enabled=not last):
            with precision.autocast():
                losses = model(images, targets)
            total = sum(losses.values()) / accumulate
            _refuse_non_finite(total, losses, training, targets)
            precision.scaler.scale(total).backward()
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0) + loss.detach() / accumulate
        if last:
            update_weights(training, clip_norm=clip_norm)
            yield sums
            sums = {}


def update_weights(training: Training, *, clip_norm: float) -> None:
    """One optimizer step from the gradients at hand."""
    if clip_norm:
        training.precision.scaler.unscale_(training.optimizer)
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), clip_norm)
    with memory_order(training.optimizer):
        training.precision.scaler.step(training.optimizer)
    training.precision.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    training.step += 1
    training.epoch_step += 1
    training.schedule.step_update(training.step)
    if training.ema:
        training.ema.update(distributed.unwrap(training.model), step=training.step)


@torch.inference_mode()
def evaluate(model: nn.Module, loader: DataLoader, evaluator: Evaluator, *, precision: Precision) -> dict[str, Any]:
    """Predict every image of every process's shard, and compute the metrics of all of them together.

    Args:
        model: the bare model, not its DistributedDataParallel wrapper.
    """
    before = model.training
    model.eval()
    # Each process gathered batch statistics of its own; what is measured is what the main process saves.
    distributed.share_buffers(model)
    folds = Folds()
    for batch in tqdm(loader, "evaluating", leave=False, disable=not distributed.is_main()):
        images, targets = to_device(batch, precision.device)
        with precision.autocast(), folds:
            predictions = model(images)
        evaluator.update(predictions, targets)
    model.train(before)
    states = distributed.all_gather(evaluator.state())
    evaluator.merge(states)
    return distributed.on_main(evaluator.compute)


def to_device(value: Any, device: torch.device) -> Any:
    """The tensors inside lists, tuples and dicts, moved to a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments the strides of their weights (channels_last): fused optimizers walk both as raw memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def _no_sync(model: nn.Module, *, enabled: bool) -> AbstractContextManager:
    return model.no_sync() if enabled and isinstance(model, DistributedDataParallel) else nullcontext()


def _refuse_non_finite(total: torch.Tensor, losses: dict[str, torch.Tensor], training: Training, targets: Any) -> None:
    """Stop every process before a broken loss reaches the weights."""
    broken = torch.tensor(float(not math.isfinite(total.item())))
    if distributed.mean(broken.to(total.device)) == 0:
        return
    terms = ", ".join(f"{name} {loss.item():.4g}" for name, loss in losses.items())
    ids = _image_ids(targets)
    raise UserError(
        f"the loss is not finite at step {training.step + 1} of process {distributed.rank()}: {terms}; "
        f"lr {training.optimizer.param_groups[0]['lr']:.3g}; images {ids}; try a lower --lr or a longer --warmup"
    )


def _image_ids(targets: Any) -> list[int]:
    """Of a batch of detection's (a dict an image) or of classification's (a dict of tensors)."""
    if isinstance(targets, dict):
        return targets["index"].tolist()
    return [int(target["image_id"]) for target in targets if isinstance(target, dict)]


def _progress(steps: int, done: int, batch_size: int) -> tqdm:
    """A bar over images, so that it shows images/s and the time left."""
    return tqdm(
        total=steps * batch_size,
        initial=done * batch_size,
        unit="img",
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,  # a log file wants few lines
        disable=not distributed.is_main(),
    )


def _report(
    training: Training,
    losses: dict[str, torch.Tensor],
    log: RunLog,
    progress: tqdm,
    batches: Batches,
    epochs: int,
) -> None:
    """Move the bar; every few steps read the losses (which waits for the device), show and log them."""
    progress.update(batches.batch_size)
    if training.step % LOG_EVERY and training.step < epochs * batches.steps:
        return
    names = list(losses)
    values = dict(zip(names, distributed.mean(torch.stack([losses[n].float() for n in names])).tolist(), strict=True))
    lr = training.optimizer.param_groups[0]["lr"]
    log.write(training.step, {"loss": sum(values.values()), **values, "lr": lr})
    progress.set_description(f"epoch {training.epoch + 1}/{epochs}", refresh=False)
    shown = {name.removeprefix("loss_"): f"{value:.3f}" for name, value in values.items()}
    progress.set_postfix(loss=f"{sum(values.values()):.3f}", **shown, lr=f"{lr:.2g}", refresh=False)


def _announce(progress: tqdm, epoch: float, metric: str, results: dict[str, Any]) -> None:
    score = results[metric]
    progress.write(f"epoch {epoch:g}: {metric} {'n/a' if score is None else f'{score:.4f}'}")
