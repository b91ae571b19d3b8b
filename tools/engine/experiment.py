"""State of one run (folder, device, options) and its steps: start, train, save, resume."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from timm.utils import ModelEmaV3
from torch import nn

from backbones.common.data_split import DataSplit
from backbones.common.files import JsonObject
from backbones.common.machine import cores
from backbones.common.precision import precision_dtype
from backbones.common.run_files import MODEL_FILE, resume_options
from backbones.common.version import toolkit_version
from backbones.errors import UserError
from tools.cli.parsing import groups_of, to_dict
from tools.engine import checkpoint, history, optim
from tools.engine.batches import Batch, Batches
from tools.engine.cost import versions
from tools.engine.delivery import Delivery, deliver
from tools.engine.environment import be_deterministic, require_possible, user_error_of
from tools.engine.evaluation import Results
from tools.engine.loop import Pace, fit
from tools.engine.nonfinite import NonFiniteError, require_finite_weights
from tools.engine.options import RunOptions, TaskOptions, TrainOptions
from tools.engine.random_states import random_state, restore_random
from tools.engine.resume import Changes, describe_changes, describe_end, require_same_run
from tools.engine.run_config import update_config, write_start
from tools.engine.run_folder import BEST, LAST, choose_folder, create_folder, lock, remove_temporary
from tools.engine.run_log import RunLog
from tools.engine.stages import Thawing
from tools.engine.state import Precision, Training
from tools.engine.trackers import open_trackers
from tools.engine.tracking import RunEnd, RunStart, Status, Trackers
from tools.processes import distributed, limits, stopping
from tools.processes.threads import default_threads


@dataclass
class Experiment:
    """One run of a training command.

    Attributes:
        folder: the run folder; it does not exist before `open_folder`.
        train: options of optimizer and schedule.
        run: options of the run; `resume` says whether the run continues from a checkpoint.
        config: all options by name, as config.yaml holds them.
        meta: description of the model for users of its weights (classes, input sizes), as JSON values.
        groups: option groups of the command. Their fields say which options a resumed run may change.
        changed: options that were changed on resuming after a stop at values that are not finite.
        measured_meta: what the last evaluation found out that predictions need, such as thresholds; in the header of
            weights it is added to `meta`.
        first_step: number of finished optimizer steps in the checkpoint that the run continues from.
        trackers: what `--track` names.
    """

    folder: Path
    device: torch.device
    train: TrainOptions
    run: RunOptions
    config: JsonObject
    meta: JsonObject = field(default_factory=dict)
    groups: Sequence[type] = ()
    changed: Changes = field(default_factory=dict)
    measured_meta: JsonObject = field(default_factory=dict)
    first_step: int = 0
    trackers: Trackers = field(default_factory=lambda: Trackers({}))

    @classmethod
    def start(cls, options: TaskOptions, *, prefix: str, fixed_size: bool) -> Experiment:
        """Join the other processes, set seeds and threads, choose the run folder, and import plugins.

        Args:
            prefix: first part of the name of a new run folder.
            fixed_size: whether all training batches have one shape.

        Raises:
            UserError: the batch cannot be divided among the processes, the folder cannot be used, or a plugin fails.
        """
        train, run, config = options.train, options.run, to_dict(options)
        if run.deterministic:
            be_deterministic()
        limits.raise_open_files()
        # Join the process group and choose this process's GPU.
        device = distributed.start(run.timeout, run.device)
        distributed.on_all(lambda: require_possible(train, config, device))
        torch.set_num_threads(run.threads or default_threads())
        # Numbers below 1e-38 do not matter here, and each costs a CPU a hundred cycles.
        torch.set_flush_denormal(True)
        # Initial weights are the same on every process.
        torch.manual_seed(run.seed)
        # Measure the algorithms of cuDNN only where it pays: the measurement is repeated for each new shape.
        torch.backends.cudnn.benchmark = fixed_size and not run.deterministic
        # Processes that torchrun restarted continue in the folder that they left.
        launchers = distributed.launchers()
        folder, resume = distributed.on_main(
            lambda: choose_folder(run.output, prefix=prefix, resume=run.resume, launchers=launchers)
        )
        # Import the user's code before names of backbones, necks and heads are resolved.
        distributed.on_all(options.plugins.load)
        # Refuse an unknown tracker, and one whose package is absent, before anything is built.
        trackers = distributed.on_all(lambda: open_trackers([] if run.dry_run else run.track))
        config, run = {**config, "output": str(folder)}, replace(run, resume=resume)
        experiment = cls(folder, device, train, run, config, groups=groups_of(options), trackers=trackers)
        distributed.on_all(lambda: limits.require_open_files(experiment.workers))
        return experiment

    @property
    def workers(self) -> int:
        """Return the number of data-loading processes per training process."""
        if self.run.workers is not None:
            return self.run.workers
        return min(4, max(1, cores() // distributed.processes_on_this_machine()))

    @property
    def eval_batch(self) -> int:
        """Return the number of images in one forward pass of an evaluation; the number of processes does not matter."""
        return self.train.batch_size // self.train.accumulate

    @property
    def process_batch(self) -> int:
        """Return the number of images in one forward pass of training on one process."""
        return self.train.batch_size // (distributed.world_size() * self.train.accumulate)

    def precision(self) -> Precision:
        """Return the device and data type with which the run computes."""
        return Precision(self.device, precision_dtype(self.train.precision, self.device))

    def training(self, model: nn.Module, *, steps_per_epoch: int) -> Training:
        """Return the model with optimizer, schedule and moving average: new, or restored from the checkpoint.

        Raises:
            UserError: with `--resume`, the checkpoint belongs to other options, classes or images.
        """
        # Move the weights before the optimizer reads them. On CPUs and GPUs convolutions are faster in channels_last.
        model = model.to(self.device).to(memory_format=torch.channels_last)
        # The optimizer holds all parameters that will train at any time, also those of stages that thaw later.
        thawing = Thawing(model, () if self.run.eval_only else self.train.thaw or ())
        thawing.set_epoch(self.train.epochs)
        optimizer = optim.build_optimizer(model, self.train)
        thawing.set_epoch(0)
        training = Training(
            model=distributed.wrap(model, self.device),
            optimizer=optimizer,
            schedule=optim.build_schedule(optimizer, self.train, self.train.epochs * steps_per_epoch),
            precision=self.precision(),
            ema=ModelEmaV3(model, decay=self.train.ema, use_warmup=True) if self.train.ema else None,
            thawing=thawing,
            steps_per_epoch=steps_per_epoch,
        )
        # From here on each process draws random numbers of its own, such as the sampled anchors of its images.
        torch.manual_seed(self.run.seed + 1 + distributed.rank())
        training.schedule.step_update(0)  # sets the learning rate of the first step
        if self.run.resume:
            distributed.on_all(lambda: self._resume(training))
        return training

    def open_folder(self, split: DataSplit | None = None) -> None:
        """Create the run folder with config.yaml, which `--config` reads back, and splits.json.

        Args:
            split: how the training images were split, if the data have no validation split.

        Raises:
            UserError: the folder cannot be written, or another process trains in it.
        """
        launchers = distributed.launchers()
        distributed.on_main(lambda: self._write_config(launchers, split))

    def fit(
        self,
        training: Training,
        loader: Iterable[Batch],
        *,
        batches: Batches,
        evaluate: Callable[[nn.Module], Results],
        metric: str,
    ) -> Results:
        """Train to the end; write log and checkpoints into the run folder.

        Args:
            evaluate: measures a model.
            metric: key in its results that selects the best checkpoint; larger is better.

        Returns:
            The results of the last evaluation; empty if a resumed run had reached its end already.

        Raises:
            Stopped: on SIGTERM or SIGUSR1, after the checkpoint was written.
            UserError: a value is not finite (the batch of a loss or gradient is kept in the run folder), or the disk is
                full.
        """
        log = RunLog(self.folder, self.trackers, step=training.step, measured=training.measured)
        run = self.run
        with self._explaining_ends():
            if not run.resume:
                # A run that is killed in its first steps can be resumed as well.
                self.save(training, "last")
            with stopping.catch_signals():
                return fit(
                    training,
                    loader,
                    pace=Pace(self.train.epochs, run.eval_every, run.eval_steps, run.patience, run.checkpoint_every),
                    batches=batches,
                    log=log,
                    evaluate=lambda: evaluate(training.evaluated),
                    save=lambda name: self.save(training, name),
                    metric=metric,
                    clip_norm=self.train.clip_norm,
                )

    @contextmanager
    def _explaining_ends(self) -> Iterator[None]:
        """Context manager of a training: adds to the error that ends it how to go on, and keeps the evidence."""
        try:
            yield
        except stopping.Stopped as stop:
            distributed.stop()
            raise stopping.Stopped(f"{stop}; continue with {resume_options(self.folder)}") from None
        except NonFiniteError as error:
            # Note the stop: the learning rate may change when the run is resumed. A full disk must not hide the error.
            with suppress(UserError):
                note = functools.partial(history.note, self.folder, history.NOT_FINITE, step=error.step)
                distributed.on_main(functools.partial(note, reason=str(error)))
            distributed.on_all(functools.partial(self._keep_evidence, error))
            raise
        except (RuntimeError, ValueError, OSError) as error:
            if found := user_error_of(error):
                raise found from None
            raise

    @contextmanager
    def tracking(self, training: Training, results: Results) -> Iterator[None]:
        """Context manager of a run's work: tells the trackers its beginning and its end.

        Args:
            results: metrics of the delivered model, which are filled in within the context.
        """
        config = {name: list(value) if isinstance(value, tuple) else value for name, value in self.config.items()}
        self.trackers.start(RunStart(self.folder, config, training.step, training.measured))
        status: Status = "failed"
        try:
            yield
            status = "finished"
        except (stopping.Stopped, KeyboardInterrupt):
            status = "stopped"
            raise
        finally:
            self.trackers.end(RunEnd(status, training.step, dict(results) if status == "finished" else {}))

    def save(self, training: Training, name: str) -> None:
        """Write a checkpoint. All processes must call this; the main process writes.

        Args:
            name: "last" writes all that `--resume` needs, "best" the model alone, as in model.safetensors.

        Raises:
            NonFiniteError: weights or optimizer state are not finite. Nothing is written.
            UserError: the disk is full.
        """
        if name == "best":
            self._write_model(self.folder / BEST, training.evaluated, step=training.step)
            self.trackers.checkpoint(training.step, self.folder / BEST)
            return
        require_finite_weights(training.state_dict(), step=training.step)
        random = distributed.all_gather(random_state(self.device))
        state = {"training": training.state_dict(), "random": random, "config": self.config, "meta": self.meta}
        state["versions"] = versions()
        keep = max(1, self.run.keep_checkpoints)
        distributed.on_main(lambda: checkpoint.save(self.folder / LAST, state, keep=keep))
        self.trackers.checkpoint(training.step, self.folder / LAST)

    def deliver(self, training: Training) -> Delivery:
        """Load the model that `--deliver` names, best or last, into `training.evaluated`; write model.safetensors.

        With `--eval-only` nothing is written.
        """
        delivery = deliver(training, self.folder, wanted=self.run.deliver)
        if not self.run.eval_only:
            self._write_model(self.folder / MODEL_FILE, training.evaluated, step=delivery.step)
        return delivery

    def complete(self, training: Training, delivery: Delivery) -> None:
        """Write model.safetensors again if the evaluation of the delivered model found out what its header lacks."""
        if self.measured_meta and not self.run.eval_only:
            self._write_model(self.folder / MODEL_FILE, training.evaluated, step=delivery.step)

    def _keep_evidence(self, error: NonFiniteError) -> None:
        """Write the batch whose loss or gradient is not finite to a file; raise the error, which names this file."""
        if error.reports:
            raise error.keep(self.folder, config=self.config, meta=self.meta) from None

    def _write_model(self, path: Path, model: nn.Module, *, step: int | None) -> None:
        """Write a model's weights; the header holds meta, config, the finished steps and the toolkit's version."""
        require_finite_weights(model.state_dict(), step=step or 0)
        meta = {**self.meta, **self.measured_meta}
        header = {"meta": json.dumps(meta), "config": json.dumps(self.config), "step": json.dumps(step)}
        header["toolkit"] = toolkit_version()
        distributed.on_main(lambda: checkpoint.write_safetensors(path, model.state_dict(), header))

    def _write_config(self, launchers: set[str], split: DataSplit | None) -> None:
        create_folder(self.folder, launchers=launchers)
        # An evaluation of an existing run changes nothing in its folder, where the training may still go on.
        if self.run.eval_only and self.run.resume:
            return
        lock(self.folder)  # keeps a second training out of it
        remove_temporary(self.folder)
        if not self.run.resume:
            write_start(self.folder, self.config, split)
        elif self.changed:
            update_config(self.folder, {name: self.config[name] for name in self.changed})
            history.note(self.folder, history.CHANGED, step=self.first_step, options=self.changed)

    def _resume(self, training: Training) -> None:
        """Restore a training from the newest checkpoint that is undamaged and finite."""
        # All processes read the checkpoint that the main process chose.
        chosen = distributed.on_main(lambda: checkpoint.newest_whole(self.folder / LAST))
        state = checkpoint.load(chosen.path)
        # Refuse a checkpoint of other options, classes or images.
        self.changed = require_same_run(
            state,
            self.config,
            self.meta,
            path=chosen.path,
            measured_only=self.run.eval_only,
            groups=self.groups,
            nonfinite=distributed.on_main(lambda: history.stops_at_nonfinite(self.folder)),
            after_nonfinite=chosen.after_nonfinite,
        )
        if self.run.eval_only:
            training.load_model(state["training"])
            return
        # Restore weights, moving average, optimizer state and counters. The counters give the learning rate and the
        # next images, so the data loader has no state of its own.
        training.load_state_dict(state["training"])
        self.first_step = training.step
        if distributed.is_main():
            states = (state["training"]["optimizer"], training.optimizer.state_dict())
            before, now = (each["param_groups"][0]["lr"] for each in states)
            end = describe_end(self.changed, self.train.epochs, done=training.epoch, rates=(before, now))
            changes = describe_changes(self.changed, self.folder / history.HISTORY)
            print("\n".join([f"continuing after step {training.step}", *filter(None, [end]), *changes]))
        restore_random(state["random"], self.device)
