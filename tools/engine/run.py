"""One run from its options to its files: what the training scripts of all tasks do in the same way."""

from __future__ import annotations

import functools
import json
import os
import platform
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from backbones.common.files import write_text
from backbones.common.loading import cores
from backbones.common.precision import precision_dtype
from backbones.errors import UserError
from backbones.norm import norm_table
from tools.engine import checkpoint, optim
from tools.engine.cost import macs, parameters, versions
from tools.engine.loop import Batches, fit
from tools.engine.nonfinite import NonFiniteLossError
from tools.engine.options import RunOptions, TrainOptions
from tools.engine.plan import LIVE_NORM_IMAGES, print_plan
from tools.engine.rehearsal import Rehearsal, rehearse
from tools.engine.resume import require_same_run
from tools.engine.run_folder import BEST, LAST, TEMPORARY, choose_folder, create_folder, hold
from tools.engine.run_log import RunLog
from tools.engine.stages import Thawing
from tools.engine.state import Precision, Training, random_state, set_random_state
from tools.processes import distributed, stopping


@dataclass
class Experiment:
    """A run's folder, device and options.

    Attributes:
        config: all options, flat, as they are saved in `config.yaml`.
        meta: what a user of the weights must know besides (categories, input sizes): JSON values.
    """

    folder: Path
    device: torch.device
    train: TrainOptions
    run: RunOptions
    config: dict[str, Any]
    meta: dict[str, Any]

    @classmethod
    def start(cls, *, train: TrainOptions, run: RunOptions, config: dict[str, Any], prefix: str) -> Experiment:
        """Join the other processes, set seeds and threads, choose the run folder.

        Raises:
            UserError: for a batch that the processes cannot share, or a folder that cannot be used.
        """
        if run.deterministic:
            _be_deterministic()
        device = distributed.start(run.timeout)
        distributed.on_all(lambda: _check(train, config, device))
        torch.set_num_threads(run.threads or default_threads())
        # Numbers below 1e-38 mean nothing here, and cost a CPU a hundred cycles each.
        torch.set_flush_denormal(True)
        torch.manual_seed(run.seed)
        torch.backends.cudnn.benchmark = not run.deterministic
        launchers = distributed.launchers()
        folder, resume = distributed.on_main(
            lambda: choose_folder(run.output, prefix=prefix, resume=run.resume, launchers=launchers)
        )
        return cls(folder, device, train, replace(run, resume=resume), {**config, "output": str(folder)}, {})

    @property
    def workers(self) -> int:
        """Data-loading processes of this training process."""
        if self.run.workers is not None:
            return self.run.workers
        return min(4, max(1, cores() // distributed.processes_on_this_machine()))

    @property
    def eval_batch(self) -> int:
        """Images of one forward pass of an evaluation, whatever the number of processes: figures are the same then."""
        return self.train.batch_size // self.train.accumulate

    @property
    def process_batch(self) -> int:
        """Images of one forward pass of one process."""
        return self.train.batch_size // (distributed.world_size() * self.train.accumulate)

    def norms(self, model: nn.Module) -> str:
        """The plan's words on norm layers, with a warning where live ones take their statistics of few images."""
        table = norm_table(model)
        text = ", ".join(f"{count} {state}" for state, count in table.items()) or "none"
        images = self.process_batch * (1 if "live" in table else distributed.world_size())
        if images >= LIVE_NORM_IMAGES or not any(state.startswith("live") for state in table):
            return text
        return f"{text}; WARNING: live batch norm over {images} images is noisy; --norm frozen, group, or sync on GPUs"

    def precision(self) -> Precision:
        """How this run computes."""
        return Precision(self.device, precision_dtype(self.train.precision, self.device))

    def training(self, model: nn.Module, *, steps_per_epoch: int) -> Training:
        """The model with optimizer, schedule and moving average, at the start or where `--resume` finds it."""
        model = model.to(self.device).to(memory_format=torch.channels_last)
        thawing = Thawing(model, () if self.run.eval_only else self.train.thaw or ())
        thawing.to(self.train.epochs)  # the optimizer holds all that will ever train
        optimizer = optim.build_optimizer(model, self.train)
        thawing.to(0)
        training = Training(
            model=distributed.wrap(model, self.device),
            optimizer=optimizer,
            schedule=optim.build_schedule(optimizer, self.train, self.train.epochs * steps_per_epoch),
            precision=self.precision(),
            ema=ModelEmaV3(model, decay=self.train.ema, use_warmup=True) if self.train.ema else None,
            thawing=thawing,
            steps_per_epoch=steps_per_epoch,
        )
        torch.manual_seed(self.run.seed + 1 + distributed.rank())  # each process samples its own
        training.schedule.step_update(0)
        if self.run.resume:
            distributed.on_all(lambda: self._resume(training))
        return training

    def fit(
        self,
        training: Training,
        loader: Any,
        *,
        batches: Batches,
        evaluate: Callable[[nn.Module], dict[str, Any]],
        metric: str,
    ) -> dict[str, Any]:
        """Train to the end with log and checkpoints in the run folder, and leave `model.safetensors` there.

        Args:
            evaluate: measures a net.
            metric: the figure by which the best checkpoint is chosen; larger is better.

        Returns:
            The last evaluation's results.

        Raises:
            Stopped: on SIGTERM or SIGUSR1, with the checkpoint written.
            UserError: for a loss that is not finite, whose batch is kept in the run folder; for a full disk.
        """
        log = RunLog(self.folder, step=training.step, measured=training.measured)
        if not self.run.resume:
            self.save(training, "last")  # a run that is killed in its first steps resumes as well
        run = self.run
        try:
            with stopping.noticed():
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
            raise stopping.Stopped(f"{stop}; go on with --resume --output {self.folder}") from None
        except NonFiniteLossError as error:
            distributed.on_all(functools.partial(self._end_with, error))
            raise
        except (RuntimeError, ValueError) as error:
            if mistake := _mistake(error):
                raise mistake from None
            raise
        finally:
            log.close()
        self.save_model(training.evaluated)
        return results

    def rehearse(self, training: Training, loader: Any, *, batches: Batches) -> Rehearsal:
        """Make a few steps and print how long all of them would take; the run folder stays as it is."""
        found = rehearse(training, loader, batches=batches, epochs=self.train.epochs, clip_norm=self.train.clip_norm)
        print_plan({"dry run": found})
        distributed.stop()
        return found

    def save(self, training: Training, name: str) -> None:
        """Write checkpoint "last", all that `--resume` needs, or "best", the net alone as `model.safetensors` holds it.

        Every process takes part, the main one writes.
        """
        if name == "best":
            distributed.on_main(lambda: self._write_model(self.folder / BEST, training.evaluated))
            return
        random = distributed.all_gather(random_state(self.device))
        state = {"training": training.state_dict(), "random": random, "config": self.config, "meta": self.meta}
        state["versions"] = versions()
        distributed.on_main(lambda: checkpoint.save(self.folder / LAST, state, keep=self.run.keep_checkpoints))

    def save_model(self, model: nn.Module) -> None:
        """Write `model.safetensors`: the net alone, with `meta` as JSON in its header."""
        distributed.on_main(lambda: self._write_model(self.folder / "model.safetensors", model))

    def costs(self, model: nn.Module, size: int | None = None, in_channels: int = 3) -> dict[str, Any]:
        """What the run cost: `parameters`, `peak_memory` in bytes, `macs` of one image of `size` pixels, `environment`.

        The memory is the device's where there is one, else this process's own, its libraries included. A detector's
        multiply-adds depend on what it finds: without a size they are left out.
        """
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        counted = {} if size is None else {"macs": macs(model, size, in_channels)}
        return {"parameters": parameters(model), **counted, "peak_memory": peak, "environment": self.environment()}

    def environment(self) -> dict[str, Any]:
        """Versions, device and processes, as `results.json` keeps them."""
        gpu = self.device.type == "cuda"
        return {
            **versions(),
            "device": torch.cuda.get_device_name(self.device) if gpu else f"{cores()} cores of {platform.machine()}",
            "processes": distributed.world_size(),
            "precision": str(self.precision().dtype).removeprefix("torch."),
        }

    def open_folder(self) -> None:
        """Create the run folder with `config.yaml`, which `--config` reads back.

        Raises:
            UserError: where it cannot be written.
        """
        launchers = distributed.launchers()
        distributed.on_main(lambda: self._write_config(launchers))

    def _end_with(self, error: NonFiniteLossError) -> None:
        """Raise what is to be said of a broken loss, on the processes that know."""
        if error.evidence is not None:
            raise error.keep(self.folder, config=self.config, meta=self.meta) from None

    def _write_model(self, path: Path, model: nn.Module) -> None:
        header = {"meta": json.dumps(self.meta), "config": json.dumps(self.config)}
        checkpoint.write_safetensors(path, model.state_dict(), header)

    def _write_config(self, launchers: set[str]) -> None:
        import yaml

        create_folder(self.folder, launchers=launchers)
        if self.run.eval_only and self.run.resume:  # a look at a run, which may be in training
            return
        hold(self.folder)
        for pattern in TEMPORARY:  # of a killed process
            for left_over in self.folder.glob(pattern):
                left_over.unlink()
        if not self.run.resume:
            values = {name: list(v) if isinstance(v, tuple) else v for name, v in self.config.items()}
            values["eval_only"] = False
            write_text(self.folder / "config.yaml", yaml.safe_dump(values, sort_keys=False))

    def _resume(self, training: Training) -> None:
        path = distributed.on_main(lambda: checkpoint.newest_whole(self.folder / LAST))
        state = checkpoint.load(path)
        require_same_run(state, self.config, self.meta, path=path, measured_only=self.run.eval_only)
        if self.run.eval_only:
            training.load_net(state["training"])
            return
        training.load_state_dict(state["training"])
        if distributed.is_main():
            print(f"going on after step {training.step}")
        if len(state["random"]) == distributed.world_size():
            set_random_state(state["random"][distributed.rank()], self.device)
        elif distributed.is_main():
            print(
                f"resuming on {distributed.world_size()} processes a run of {len(state['random'])}: the images of each "
                "step and the learning rate stay; random sampling goes on from new seeds, live batch norm sees other "
                "shares, and sums are rounded in another order, so the result is not bit-exact"
            )


def default_threads() -> int:
    """CPU threads of this process: $OMP_NUM_THREADS where somebody set it, else an equal share of the cores."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    # torchrun sets it to 1 by itself, which leaves most cores of a machine without GPUs idle.
    if chosen.isdigit() and int(chosen) and "TORCHELASTIC_RUN_ID" not in os.environ:
        return int(chosen)
    return max(1, cores() // distributed.processes_on_this_machine())


def _check(train: TrainOptions, config: dict[str, Any], device: torch.device) -> None:
    """Refuse what these processes, on this device, cannot do."""
    parts = distributed.world_size() * train.accumulate
    if train.batch_size % parts:
        raise UserError(
            f"--batch-size {train.batch_size}: does not divide into {distributed.world_size()} processes x "
            f"{train.accumulate} accumulated batches; take a multiple of {parts}"
        )
    if config.get("norm") == "sync" and device.type == "cpu" and distributed.world_size() > 1:
        raise UserError("--norm sync: torch synchronises batch norm on GPUs only; take batch or group on CPUs")


def _be_deterministic() -> None:
    # cuBLAS reads it when it is first used; without it its products add in no fixed order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True


def _mistake(error: Exception) -> UserError | None:
    """What torch refuses that the options ask for, in one line; None where it is another error."""
    text = str(error).split("\n")[0].split(". ")[0]
    if "does not have a deterministic implementation" in text:
        return UserError(f"--deterministic: {text}; take another net, or leave the option out")
    if text.startswith("Expected more than 1 value per channel when training"):
        rule = "raise --batch-size or the size of the inputs, or take --norm frozen or group"
        return UserError(f"--batch-size: leaves batch norm one value of each channel to learn from; {rule}")
    return None
