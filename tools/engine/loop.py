"""The training loop and the evaluation loop, for every task.

A task hands over a model that turns `model(images, targets)` into a dict of scalar losses in training mode and
`model(images)` into predictions in evaluation mode, loaders of `(images, targets)` batches, and an evaluator with
`update(predictions, targets)`, `state()`, `merge(states)` and `compute() -> dict`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from tools.engine import nonfinite
from tools.engine.evaluation import to_device
from tools.engine.optim import memory_order
from tools.engine.run_log import RunLog
from tools.engine.state import Training, random_state
from tools.processes import distributed, stopping
from tools.processes.stopping import Stopped

LOG_EVERY = 20  # optimizer steps between logged lines


class Batches(Protocol):
    """How the batches of an epoch are counted, and where the loader begins."""

    batch_size: int
    accumulate: int

    @property
    def steps(self) -> int: ...

    def seek(self, epoch: int, step: int = 0) -> None: ...


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
    patience: int = 0,
    checkpoint_every: int = 500,
    clip_norm: float = 0.0,
) -> dict[str, Any]:
    """Train to the end of the last epoch; evaluate, log and save along the way.

    Whenever it is stopped, what was saved last says what is still to do, so that it goes on bit for bit.

    Args:
        loader: yields this process's batches of an epoch, beginning where `batches` was told to.
        batches: `distributed.TrainBatches`, or a stream's like of them.
        evaluate: measures `training.evaluated`.
        eval_steps: optimizer steps between further evaluations within the epochs; 0 for none.
        patience: evaluations in a row without a new best value of `metric` that end the training; 0 for any number.
        save: called with "last" and, after a new best value of `metric`, with "best".

    Returns:
        The last evaluation's results.

    Raises:
        Stopped: on a signal, once the checkpoint is written.
        NonFiniteLossError: on every process.
    """
    results: dict[str, Any] = {}
    stopping.shield(loader)

    def measure_if_due() -> None:
        if not _is_due(training, batches.steps, epochs=epochs, eval_every=eval_every, eval_steps=eval_steps):
            return
        try:
            results.update(evaluate())
        except Stopped:
            save("last")
            raise
        done = training.epoch + training.epoch_step / batches.steps
        log.write(training.step, {"epoch": done, **results})
        _announce(progress, done, metric, results)
        if _note_score(training, results[metric]):
            save("best")

    def worn_out() -> bool:
        return 0 < patience <= training.waited

    with _progress(epochs * batches.steps, training.step, batches.batch_size) as progress:
        while training.epoch < epochs and not worn_out():
            training.begin_epoch()
            batches.seek(training.epoch, training.epoch_step)
            steps = iter(train_epoch(training, loader, accumulate=batches.accumulate, clip_norm=clip_norm))
            while True:
                measure_if_due()
                losses = None if worn_out() else next(steps, None)
                if losses is None:
                    break
                _report(training, losses, log, progress, batches, epochs)
                if training.stopping or (distributed.world_size() == 1 and stopping.asked()):
                    save("last")
                    raise Stopped(f"stopped after step {training.step}")
                if training.step % checkpoint_every == 0 and training.epoch_step < batches.steps:
                    save("last")
            if training.epoch_step == batches.steps:
                training.epoch, training.epoch_step = training.epoch + 1, 0
            save("last")
        if worn_out():
            _say(progress, f"no better {metric} in {patience} evaluations: ended early")
    return results


def _is_due(training: Training, steps: int, *, epochs: int, eval_every: int, eval_steps: int) -> bool:
    """Whether the net is to be evaluated where it stands, and was not yet."""
    if training.epoch_step == steps:
        epoch = training.epoch + 1
        here = epoch % eval_every == 0 or epoch == epochs
    else:
        here = eval_steps > 0 and training.step % eval_steps == 0
    return here and training.measured < training.step


def _note_score(training: Training, score: float | None) -> bool:
    """Remember an evaluation; whether its score is the best so far."""
    training.measured = training.step
    better = score is not None and not math.isnan(score) and (training.best is None or score > training.best)
    training.waited = 0 if better else training.waited + 1
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
    for position, batch in enumerate(_together(loader), start=1):
        images, targets = to_device(batch, precision.device)
        last = position % accumulate == 0
        random = random_state(precision.device)
        # Gradients travel between the processes once per step, with the last of its batches.
        with _no_sync(model, enabled=not last):
            with precision.autocast():
                losses = model(images, targets)
            total = sum(losses.values()) / accumulate
            if _is_broken(total, training):
                raise _non_finite_loss(training, total, images, targets, losses, random)
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


def _together(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches; where one process cannot load its own, the mistake is everybody's."""
    batches = iter(loader)
    while (batch := distributed.on_all(lambda: next(batches, None))) is not None:
        yield batch


def _no_sync(model: nn.Module, *, enabled: bool) -> AbstractContextManager:
    return model.no_sync() if enabled and isinstance(model, DistributedDataParallel) else nullcontext()


def _is_broken(total: torch.Tensor, training: Training) -> bool:
    """Whether a process has a loss that is not finite: all learn of it before it reaches the weights.

    The same exchange tells whether a process was asked to stop: all end after the same step.
    """
    flags = torch.tensor([float(not math.isfinite(total.item())), float(stopping.asked())], device=total.device)
    broken, asked = distributed.mean(flags).tolist()
    training.stopping = training.stopping or asked > 0
    return broken > 0


def _non_finite_loss(
    training: Training,
    total: torch.Tensor,
    images: Any,
    targets: Any,
    losses: dict[str, torch.Tensor],
    random: dict[str, torch.Tensor],
) -> nonfinite.NonFiniteLossError:
    """The error to end every process with: it names those whose loss is not finite, and keeps their batches."""
    rank, lr, step = distributed.rank(), training.optimizer.param_groups[0]["lr"], training.step + 1
    finite = math.isfinite(total.item())
    texts = distributed.all_gather(None if finite else nonfinite.describe(losses, targets, rank=rank, lr=lr))
    text = f"the loss is not finite at step {step} of {'; '.join(filter(None, texts))}"
    text += "; try a lower --lr or a longer --warmup"
    if finite:
        return nonfinite.NonFiniteLossError(text, None)
    facts = {"step": step, "rank": rank, "lr": lr, "precision": str(training.precision.dtype).removeprefix("torch.")}
    model = distributed.unwrap(training.model)
    return nonfinite.NonFiniteLossError(
        text, nonfinite.evidence(model, images, targets, losses=losses, random=random, **facts)
    )


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
    _say(progress, f"epoch {epoch:g}: {metric} {'n/a' if score is None else f'{score:.4f}'}")


def _say(progress: tqdm, text: str) -> None:
    if distributed.is_main():  # a bar that is switched off writes all the same
        progress.write(text)
