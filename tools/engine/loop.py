"""The training loop of all tasks.

A task provides a model that returns a dict of scalar losses from `model(images, targets)` in training mode, a loader of
`(images, targets)` batches, and a function that evaluates the model.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from backbones.common.processes import recorded_counts
from tools.engine import nonfinite
from tools.engine.batches import Batch, Batches, Losses, to_device
from tools.engine.evaluation import Results
from tools.engine.exchange import Feed, exchange
from tools.engine.optim import gradient_norm, memory_order
from tools.engine.random_states import random_state
from tools.engine.run_log import RunLog
from tools.engine.state import Training
from tools.processes import distributed, stopping
from tools.processes.stopping import Stopped

LOG_EVERY = 20  # optimizer steps between logged lines


@dataclass(frozen=True)
class Pace:
    """When a training evaluates, saves and ends.

    Attributes:
        epochs: number of epochs.
        eval_every: epochs between evaluations. The last epoch always ends with one.
        eval_steps: optimizer steps between further evaluations within the epochs; 0 for none.
        patience: consecutive evaluations without a new best score after which training ends; 0 for no limit.
        checkpoint_every: optimizer steps between checkpoints within an epoch.
    """

    epochs: int
    eval_every: int = 1
    eval_steps: int = 0
    patience: int = 0
    checkpoint_every: int = 500

    def is_due(self, training: Training) -> bool:
        """Return whether the model must be evaluated at the current step and has not been evaluated at this step."""
        if training.epoch_step == training.steps_per_epoch:
            epoch = training.epoch + 1
            due = epoch % self.eval_every == 0 or epoch == self.epochs
        else:
            due = self.eval_steps > 0 and training.step % self.eval_steps == 0
        return due and training.measured < training.step

    def is_over(self, training: Training) -> bool:
        """Return whether the last epoch is finished, or no evaluation gave a new best score for too long."""
        return training.epoch >= self.epochs or self.is_out_of_patience(training)

    def is_out_of_patience(self, training: Training) -> bool:
        """Return whether too many evaluations in a row gave no new best score."""
        return 0 < self.patience <= training.waited


def fit(
    training: Training,
    loader: Iterable[Batch],
    *,
    pace: Pace,
    batches: Batches,
    log: RunLog,
    evaluate: Callable[[], Results],
    save: Callable[[str], None],
    metric: str,
    clip_norm: float = 0.0,
) -> Results:
    """Train to the end of the last epoch, with evaluations, log and checkpoints on the way.

    The state that `save` writes says which step and which evaluation is next. A run that continues from it computes
    the same bits as one that was never stopped.

    Args:
        loader: yields this process's batches of an epoch, starting at the step that `batches.seek` was given.
        batches: the order of the images, `processes.batches.TrainBatches` or `classification.data.shards.ShardBatches`.
        evaluate: returns the metrics of `training.evaluated`.
        save: writes a checkpoint. It is called with "last", and with "best" after a new best value of `metric`.
        metric: key in the results of `evaluate`; larger is better.
        clip_norm: largest norm of the gradient; 0 for no limit.

    Returns:
        The results of the last evaluation; empty if the training had ended before.

    Raises:
        Stopped: on a signal, after the checkpoint was written.
        NonFiniteError: on every process.
    """
    stopping.protect_workers(loader)
    with _progress(pace.epochs * batches.steps, training.step, batches.batch_size) as progress:
        run = _Fit(training, pace, batches, log, evaluate, save, metric, progress)
        while not pace.is_over(training):
            # Thaw stages that are due, and continue at the step where the run was stopped.
            training.begin_epoch()
            batches.seek(training.epoch, training.epoch_step)
            run.finish_epoch(train_epoch(training, loader, accumulate=batches.accumulate, clip_norm=clip_norm))
        if pace.is_out_of_patience(training):
            _say(progress, f"no better {metric} in {pace.patience} evaluations: ended early")
    return run.results


@dataclass
class _Fit:
    """The parts of a training, as `fit` describes them.

    Attributes:
        results: those of the last evaluation.
    """

    training: Training
    pace: Pace
    batches: Batches
    log: RunLog
    evaluate: Callable[[], Results]
    save: Callable[[str], None]
    metric: str
    progress: tqdm
    results: Results = field(default_factory=dict)

    def finish_epoch(self, steps: Iterator[Losses]) -> None:
        """Make the remaining optimizer steps of the epoch, of which `steps` yields the losses, and save."""
        training = self.training
        while True:
            # Evaluate before the next step, so that a resumed run makes up for an evaluation it was stopped in.
            self.measure_if_due()
            losses = None if self.pace.is_out_of_patience(training) else next(steps, None)
            if losses is None:
                break
            _report(training, losses, self.log, self.progress, self.batches, self.pace.epochs)
            self.stop_if_asked()
            # The end of an epoch is saved below, after its evaluation.
            if training.step % self.pace.checkpoint_every == 0 and training.epoch_step < self.batches.steps:
                self.save("last")
        if training.epoch_step == self.batches.steps:
            training.epoch, training.epoch_step = training.epoch + 1, 0
        self.save("last")

    def measure_if_due(self) -> None:
        """Evaluate the model, log the results, and save the model if its score is the best so far."""
        training = self.training
        if not self.pace.is_due(training):
            return
        try:
            self.results.update(self.evaluate())
        except Stopped:
            # The checkpoint counts this evaluation as not done, so that --resume repeats it.
            self.save("last")
            raise
        done = training.epoch + training.epoch_step / self.batches.steps
        self.log.write(training.step, {"epoch": done, **self.results}, split="val")
        _announce(self.progress, done, self.metric, self.results)
        if _note_score(training, self.results[self.metric]):
            self.save("best")

    def stop_if_asked(self) -> None:
        """Stop after a whole step if a signal asked for it. Several processes agreed on it in `_not_finite`."""
        if self.training.stopping or (distributed.world_size() == 1 and stopping.is_requested()):
            self.save("last")
            raise Stopped(f"stopped after step {self.training.step}")


def train_epoch(
    training: Training, loader: Iterable[Batch], *, accumulate: int = 1, clip_norm: float = 0.0
) -> Iterator[Losses]:
    """Train on the batches of an epoch. After each optimizer step, yield the mean losses of its batches.

    Args:
        accumulate: batches per optimizer step.
        clip_norm: largest norm of the gradient; 0 for no limit.

    Raises:
        NonFiniteError: on every process, if loss or gradient of any process is not finite. The weights are unchanged.
    """
    model, precision = training.model, training.precision
    model.train()
    sums: Losses = {}
    feed = Feed(loader)
    for position, batch in enumerate(iter(feed.take, None), start=1):
        # Move the batch to the device.
        images, targets = to_device(batch, precision.device)
        is_last = position % accumulate == 0
        # Keep the random state, so that a loss that is not finite can be computed again.
        random = random_state(precision.device)
        # Exchange gradients between the processes once per optimizer step, with its last batch.
        with _no_sync(model, enabled=not is_last):
            # Compute the losses in the precision of the run.
            with precision.autocast(), recorded_counts() as counts:
                terms: Losses = model(images, targets)
            # Weight the losses by the counts of all processes, and exchange flags with them.
            losses, flags = exchange(terms, counts, failed=feed.look_ahead())
            total = functools.reduce(torch.add, losses.values()) / accumulate
            # Add to the gradients. The scaler keeps small ones from vanishing in fp16; otherwise it does nothing.
            precision.scaler.scale(total).backward()
        # Refuse a loss or a gradient that is not finite before it reaches the weights.
        norm = gradient_norm(training.model)
        if kind := _not_finite(flags, norm, training, feed, is_local=not is_last):
            raise nonfinite.error_of(training, kind, images, targets, losses=losses, random=random)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0) + loss.detach() / accumulate
        if is_last:
            update_weights(training, norm=norm, clip_norm=clip_norm)
            yield sums
            sums = {}


def update_weights(training: Training, *, norm: Tensor, clip_norm: float) -> None:
    """Make one optimizer step with the current gradients.

    Args:
        norm: norm of all gradients, which the scaler of fp16 has multiplied by its scale.
        clip_norm: largest norm of the gradient; 0 for no limit.
    """
    scaler = training.precision.scaler
    if clip_norm:
        # Clip the true gradients, not the scaled ones.
        scaler.unscale_(training.optimizer)
        nn.utils.clip_grads_with_norm_(training.model.parameters(), clip_norm, norm / scaler.get_scale())
    # Change the weights. The scaler leaves the step out if an fp16 gradient is not finite.
    with memory_order(training.optimizer):
        scaler.step(training.optimizer)
    scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    # Count the step, and set the learning rate of the next one.
    training.step += 1
    training.epoch_step += 1
    training.schedule.step_update(training.step)
    # Move the average of the weights towards the new ones.
    if training.ema:
        training.ema.update(distributed.unwrap(training.model), step=training.step)


def _note_score(training: Training, score: float | None) -> bool:
    """Record the score of an evaluation; return whether it is the best so far."""
    training.measured = training.step
    better = score is not None and not math.isnan(score) and (training.best is None or score > training.best)
    training.waited = 0 if better else training.waited + 1
    if better:
        training.best, training.best_step = score, training.step
    return better


def _no_sync(model: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
    return model.no_sync() if enabled and isinstance(model, DistributedDataParallel) else nullcontext()


def _not_finite(
    flags: Tensor, norm: Tensor, training: Training, feed: Feed, *, is_local: bool
) -> nonfinite.Kind | None:
    """Return what is not finite on any process: "loss", "gradient" or None. All processes return the same.

    They also note whether one of them received a signal to stop, so that all stop after the same step, and whether one
    cannot read its next batch.

    Args:
        flags: what `exchange` returned.
        norm: norm of the gradients.
        is_local: whether the gradients are those of this process alone.
    """
    infinite = (~norm.to(flags.device).isfinite()).float()
    # The exchange of gradients spreads what is not finite to all processes, so it needs no exchange of its own.
    gradients = distributed.mean(infinite) if is_local else infinite
    # Read all flags at once: reading waits for the device.
    loss, asked, failed, gradient = torch.cat([flags, gradients[None]]).tolist()
    training.stopping = training.stopping or asked > 0
    feed.note(any_failed=failed > 0)
    if loss:
        return "loss"
    return "gradient" if gradient and not _may_overflow(training.precision.scaler) else None


def _may_overflow(scaler: torch.amp.GradScaler) -> bool:
    """Return whether a gradient may be infinite without fault: in fp16, while the scaler searches its scale.

    The scaler halves the scale at each such step and leaves the step out. Below 1 the true gradient is not finite.
    """
    return scaler.is_enabled() and scaler.get_scale() >= 1


def _progress(steps: int, done: int, batch_size: int) -> tqdm:
    """Return a progress bar that counts images and shows images per second and the remaining time."""
    return tqdm(
        total=steps * batch_size,
        initial=done * batch_size,
        unit="img",
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,  # few lines in a log file
        disable=not distributed.is_main(),
    )


def _report(training: Training, losses: Losses, log: RunLog, progress: tqdm, batches: Batches, epochs: int) -> None:
    """Advance the progress bar. Every `LOG_EVERY` steps, show and log the losses."""
    progress.update(batches.batch_size)
    # Reading the losses waits for the device, so do it rarely.
    if training.step % LOG_EVERY and training.step < epochs * batches.steps:
        return
    names = list(losses)
    means = distributed.mean(torch.stack([losses[name].float() for name in names])).tolist()
    values = dict(zip(names, means, strict=True))
    lr = training.optimizer.param_groups[0]["lr"]
    log.write(training.step, {"loss": sum(values.values()), **values, "lr": lr}, split="train")
    progress.set_description(f"epoch {training.epoch + 1}/{epochs}", refresh=False)
    shown = {name.removeprefix("loss_"): f"{value:.3f}" for name, value in values.items()}
    progress.set_postfix(loss=f"{sum(values.values()):.3f}", **shown, lr=f"{lr:.2g}", refresh=False)


def _announce(progress: tqdm, epoch: float, metric: str, results: Results) -> None:
    score = results[metric]
    _say(progress, f"epoch {epoch:g}: {metric} {'n/a' if score is None else f'{score:.4f}'}")


def _say(progress: tqdm, text: str) -> None:
    # A bar that is disabled writes all the same, so ask for the main process here.
    if distributed.is_main():
        progress.write(text)
