"""State of one run (folder, device, options) and its steps: start, train, save, resume."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import yaml
from timm.utils import ModelEmaV3
from torch import nn

from backbones.common.files import JsonObject, write_text
from backbones.common.machine import cores
from backbones.common.precision import precision_dtype
from backbones.errors import UserError
from tools.cli.parsing import groups_of, to_dict
from tools.engine import checkpoint, optim
from tools.engine.batches import Batch, Batches
from tools.engine.cost import versions
from tools.engine.evaluation import Results
from tools.engine.loop import fit
from tools.engine.nonfinite import NonFiniteLossError
from tools.engine.options import RunOptions, TaskOptions, TrainOptions
from tools.engine.resume import require_same_run
from tools.engine.run_folder import BEST, LAST, TEMPORARY, choose_folder, create_folder, lock
from tools.engine.run_log import RunLog
from tools.engine.stages import Thawing
from tools.engine.state import Precision, Training, random_state, set_random_state
from tools.processes import distributed, stopping


@dataclass
class Experiment:
    """One run of a training command.

    Attributes:
        folder: the run folder; it does not exist before `open_folder`.
        train: options of optimizer and schedule.
        run: options of the run; `resume` says whether the run continues from a checkpoint.
        config: all options by name, as config.yaml holds them.
        meta: what users of the weights must know (classes, input sizes), as JSON values.
        groups: option groups of the command, whose fields say which options may change when the run is resumed.
    """

    folder: Path
    device: torch.device
    train: TrainOptions
    run: RunOptions
    config: JsonObject
    meta: JsonObject = field(default_factory=dict)
    groups: Sequence[type] = ()

    @classmethod
    def start(cls, options: TaskOptions, *, prefix: str) -> Experiment:
        """Join the other processes, set seeds and threads, choose the run folder, import plugins.

        Args:
            prefix: first part of the name of a new run folder.

        Raises:
            UserError: the batch cannot be divided among the processes, the folder cannot be used, or a plugin fails.
        """
        train, run, config = options.train, options.run, to_dict(options)
        if run.deterministic:
            _be_deterministic()
        # Join the process group and choose this process's GPU.
        device = distributed.start(run.timeout)
        distributed.on_all(lambda: _check(train, config, device))
        torch.set_num_threads(run.threads or default_threads())
        # Numbers below 1e-38 do not matter here, and each costs a CPU a hundred cycles.
        torch.set_flush_denormal(True)
        # Initial weights are the same on every process.
        torch.manual_seed(run.seed)
        torch.backends.cudnn.benchmark = not run.deterministic
        # Processes that torchrun restarted continue in the folder that they left.
        launchers = distributed.launchers()
        folder, resume = distributed.on_main(
            lambda: choose_folder(run.output, prefix=prefix, resume=run.resume, launchers=launchers)
        )
        # Import the user's code before names of backbones, necks and heads are resolved.
        distributed.on_all(options.plugins.load)
        config, run = {**config, "output": str(folder)}, replace(run, resume=resume)
        return cls(folder, device, train, run, config, groups=groups_of(options))

    @property
    def workers(self) -> int:
        """Return the number of data-loading processes per training process."""
        if self.run.workers is not None:
            return self.run.workers
        return min(4, max(1, cores() // distributed.processes_on_this_machine()))

    @property
    def eval_batch(self) -> int:
        """Return the number of images in one forward pass of an evaluation.

        It does not depend on the number of processes, so that the metrics do not either.
        """
        return self.train.batch_size // self.train.accumulate

    @property
    def process_batch(self) -> int:
        """Return the number of images in one forward pass of training on one process."""
        return self.train.batch_size // (distributed.world_size() * self.train.accumulate)

    def precision(self) -> Precision:
        """Return the device and data type of the run's computations."""
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
        # Set the learning rate of the first step.
        training.schedule.step_update(0)
        if self.run.resume:
            distributed.on_all(lambda: self._resume(training))
        return training

    def open_folder(self) -> None:
        """Create the run folder with config.yaml, which `--config` reads back.

        Raises:
            UserError: the folder cannot be written, or another process trains in it.
        """
        launchers = distributed.launchers()
        distributed.on_main(lambda: self._write_config(launchers))

    def fit(
        self,
        training: Training,
        loader: Iterable[Batch],
        *,
        batches: Batches,
        evaluate: Callable[[nn.Module], Results],
        metric: str,
    ) -> Results:
        """Train to the end with log and checkpoints in the run folder, and write model.safetensors.

        Args:
            evaluate: measures a model.
            metric: key in its results that selects the best checkpoint; larger is better.

        Returns:
            The results of the last evaluation; empty if a resumed run had reached its end already.

        Raises:
            Stopped: on SIGTERM or SIGUSR1, after the checkpoint was written.
            UserError: the loss is not finite (its batch is kept in the run folder), or the disk is full.
        """
        log = RunLog(self.folder, step=training.step, measured=training.measured)
        if not self.run.resume:
            # A run that is killed in its first steps can be resumed as well.
            self.save(training, "last")
        run = self.run
        try:
            with stopping.catch_signals():
                results = fit(
                    training,
                    loader,
                    epochs=self.train.epochs,
                    batches=batches,
                    log=log,
                    evaluate=lambda: evaluate(training.evaluated),
                    save=lambda name: self.save(training, name),
                    metric=metric,
                    eval_every=run.eval_every,
                    eval_steps=run.eval_steps,
                    patience=run.patience,
                    checkpoint_every=run.checkpoint_every,
                    clip_norm=self.train.clip_norm,
                )
        except stopping.Stopped as stop:
            distributed.stop()
            raise stopping.Stopped(f"{stop}; continue with --resume --output {self.folder}") from None
        except NonFiniteLossError as error:
            distributed.on_all(functools.partial(self._keep_evidence, error))
            raise
        except (RuntimeError, ValueError) as error:
            if found := user_error_of(error):
                raise found from None
            raise
        finally:
            log.close()
        self.save_model(training.evaluated)
        return results

    def save(self, training: Training, name: str) -> None:
        """Write a checkpoint. All processes must call this; the main process writes.

        Args:
            name: "last" writes all that `--resume` needs, "best" the model alone, as in model.safetensors.
        """
        if name == "best":
            distributed.on_main(lambda: self._write_model(self.folder / BEST, training.evaluated))
            return
        random = distributed.all_gather(random_state(self.device))
        state = {"training": training.state_dict(), "random": random, "config": self.config, "meta": self.meta}
        state["versions"] = versions()
        distributed.on_main(lambda: checkpoint.save(self.folder / LAST, state, keep=self.run.keep_checkpoints))

    def save_model(self, model: nn.Module) -> None:
        """Write model.safetensors: the weights, with `meta` and `config` as JSON in the header."""
        distributed.on_main(lambda: self._write_model(self.folder / "model.safetensors", model))

    def _keep_evidence(self, error: NonFiniteLossError) -> None:
        """Write the batch whose loss is not finite into the run folder, and raise an error that names the file."""
        if error.evidence is not None:
            raise error.keep(self.folder, config=self.config, meta=self.meta) from None

    def _write_model(self, path: Path, model: nn.Module) -> None:
        header = {"meta": json.dumps(self.meta), "config": json.dumps(self.config)}
        checkpoint.write_safetensors(path, model.state_dict(), header)

    def _write_config(self, launchers: set[str]) -> None:
        create_folder(self.folder, launchers=launchers)
        # An evaluation of an existing run changes nothing in its folder, where the training may still go on.
        if self.run.eval_only and self.run.resume:
            return
        # Keep a second training out of the folder.
        lock(self.folder)
        # Remove temporary files of a killed process.
        for pattern in TEMPORARY:
            for path in self.folder.glob(pattern):
                path.unlink()
        if not self.run.resume:
            values = {name: list(v) if isinstance(v, tuple) else v for name, v in self.config.items()}
            values["eval_only"] = False
            write_text(self.folder / "config.yaml", yaml.safe_dump(values, sort_keys=False))

    def _resume(self, training: Training) -> None:
        """Restore a training from the newest checkpoint that is not damaged."""
        # All processes read the checkpoint that the main process chose.
        path = distributed.on_main(lambda: checkpoint.newest_whole(self.folder / LAST))
        state = checkpoint.load(path)
        # Refuse a checkpoint of other options, classes or images.
        require_same_run(state, self.config, self.meta, path=path, measured_only=self.run.eval_only, groups=self.groups)
        if self.run.eval_only:
            training.load_model(state["training"])
            return
        # Restore weights, moving average, optimizer state and counters. The counters give the learning rate and the
        # next images, so the data loader has no state of its own.
        training.load_state_dict(state["training"])
        if distributed.is_main():
            print(f"continuing after step {training.step}")
        # Restore the random generators, which the model's samplers draw from.
        if len(state["random"]) == distributed.world_size():
            set_random_state(state["random"][distributed.rank()], self.device)
        elif distributed.is_main():
            print(
                f"the run was started on {len(state['random'])} processes and continues on {distributed.world_size()}: "
                "the images of each step and the learning rate are the same, but random samples, the images that "
                "live batch norm sees together, and the order of summation differ, so the result is not bit-exact"
            )


def default_threads() -> int:
    """Return the CPU threads of this process: $OMP_NUM_THREADS if the user set it, else an equal part of the cores."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    # torchrun sets the variable to 1 by itself, which leaves most cores of a machine without GPUs idle.
    if chosen.isdigit() and int(chosen) and "TORCHELASTIC_RUN_ID" not in os.environ:
        return int(chosen)
    return max(1, cores() // distributed.processes_on_this_machine())


def user_error_of(error: Exception) -> UserError | None:
    """Return the user error behind an exception of torch, such as an operation that is not deterministic, or None."""
    text = str(error).split("\n")[0].split(". ")[0]
    if "does not have a deterministic implementation" in text:
        return UserError(f"--deterministic: {text}; use another model, or leave the option out")
    if text.startswith("Expected more than 1 value per channel when training"):
        return UserError(
            "--batch-size: batch norm has one value per channel, which gives no statistics; raise --batch-size or the "
            "size of the inputs, or use --norm frozen or group"
        )
    return None


def _check(train: TrainOptions, config: Mapping[str, object], device: torch.device) -> None:
    """Refuse option values that are not possible with this number of processes and this device."""
    parts = distributed.world_size() * train.accumulate
    if train.batch_size % parts:
        raise UserError(
            f"--batch-size {train.batch_size}: does not divide into {distributed.world_size()} processes x "
            f"{train.accumulate} accumulated batches; use a multiple of {parts}"
        )
    if config.get("norm") == "sync" and device.type == "cpu" and distributed.world_size() > 1:
        raise UserError("--norm sync: torch synchronises batch norm on GPUs only; use batch or group on CPUs")


def _be_deterministic() -> None:
    # cuBLAS reads the variable at its first use. Without it the order of additions in matrix products varies.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
