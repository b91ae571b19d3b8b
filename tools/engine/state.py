"""State of a training: everything that changes while a model is trained, and how a checkpoint stores it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from backbones.common.convolutions import fast_weight_gradients
from backbones.errors import UserError
from tools.engine.checkpoint import require_like
from tools.engine.stages import Thawing
from tools.processes import distributed

State: TypeAlias = dict[str, Any]  # tensors and JSON values, as a checkpoint holds them


@dataclass
class Precision:
    """Device and data type of a model's computations, and the loss scaler that fp16 needs."""

    device: torch.device
    dtype: torch.dtype
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Context manager to use around calls of a model."""
        enabled = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=enabled), fast_weight_gradients(self.device):
            yield


@dataclass
class Training:
    """Everything that changes while a model is trained.

    Attributes:
        model: the model, in DistributedDataParallel if several processes train.
        ema: moving average of the weights, or None.
        thawing: freezes and thaws stages of the backbone by the number of epochs.
        steps_per_epoch: optimizer steps of an epoch; it changes if the data change.
        epoch: number of finished epochs.
        epoch_step: number of finished steps of the current epoch. After the last step it keeps its value until the
            evaluation is done, and then becomes 0.
        step: number of finished steps of all epochs. With the options, it determines learning rate and image order.
        measured: the step of the last evaluation.
        best: the best score so far, None before the first.
        best_step: the step at which `best` was reached; None before the first score, and in runs of version 0.1.0.
        waited: number of evaluations since the best score.
        stopping: whether the processes agreed to end after this step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Scheduler
    precision: Precision
    ema: ModelEmaV3 | None = None
    thawing: Thawing | None = None
    steps_per_epoch: int = 0
    epoch: int = 0
    epoch_step: int = 0
    step: int = 0
    measured: int = 0
    best: float | None = None
    best_step: int | None = None
    waited: int = 0
    stopping: bool = False

    @property
    def evaluated(self) -> nn.Module:
        """Return the model to evaluate and to save: the moving average if there is one."""
        return self.ema.module if self.ema else distributed.unwrap(self.model)

    def begin_epoch(self) -> None:
        """Thaw the backbone stages that begin to train in this epoch."""
        # DistributedDataParallel exchanges the gradients of the parameters that trained when it was created, so create
        # it anew.
        if self.thawing and self.thawing.set_epoch(self.epoch):
            self.model = distributed.unwrap(self.model)
            self.model = distributed.wrap(self.model, self.precision.device)

    def state_dict(self) -> State:
        """Return the whole state as tensors and JSON values."""
        return {
            "model": distributed.unwrap(self.model).state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            **{name: getattr(self, name) for name in COUNTERS},
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the state that `state_dict()` returned.

        Raises:
            UserError: the state belongs to another model, optimizer or number of steps. Nothing is changed then.
        """
        state = {"best_step": None, **state}  # runs of version 0.1.0 did not record it
        # Check everything before changing anything.
        free = {"optimizer": dict, "best": float | int | None, "best_step": int | None}
        require_like(state, {**self.state_dict(), **free}, "the checkpoint")
        self._require_possible_counts(state)
        optimizer = _checked(state["optimizer"], self.optimizer, self._resting(state))
        # Restore the weights, then the optimizer's moments, then the counters.
        self.load_model(state)
        _load_optimizer(self.optimizer, optimizer)
        self.precision.scaler.load_state_dict(state["scaler"])
        for name in COUNTERS:
            setattr(self, name, state[name])
        # Set the learning rate of the next step.
        self.schedule.step_update(self.step)

    def load_model(self, state: State) -> None:
        """Restore weights and best score, but not the optimizer, from what `state_dict()` returned.

        Raises:
            UserError: the weights belong to another model.
        """
        model, ema = distributed.unwrap(self.model), self.ema.module if self.ema else None
        own = {"model": model.state_dict(), "ema": ema.state_dict() if ema else None}
        require_like({name: state.get(name) for name in own}, own, "the checkpoint")
        model.load_state_dict(state["model"])
        if ema:
            ema.load_state_dict(state["ema"])
        for name in SHOWN:
            setattr(self, name, state.get(name, getattr(self, name)))

    def _resting(self, state: State) -> set[nn.Parameter]:
        """Return the parameters that were frozen at the last step of a saved state and will be thawed later."""
        last = state["epoch"] - (state["epoch_step"] == 0)  # epoch of the last step, counted from 0
        return self.thawing.still_frozen(last) if self.thawing else set()

    def _require_possible_counts(self, state: State) -> None:
        """Refuse a saved state whose counters contradict each other or this run's number of steps per epoch."""
        now, before = self.steps_per_epoch, state["steps_per_epoch"]
        if now != before:
            raise UserError(
                f"--resume: the data give {now} steps per epoch, but the run had {before}; resume with the data of "
                "that run, or start a new run"
            )
        epoch, epoch_step, step, measured, waited = (state[name] for name in COUNTED)
        possible = epoch >= 0 and 0 <= epoch_step <= now and step == epoch * now + epoch_step
        possible = possible and 0 <= measured <= step and 0 <= waited <= step
        if not possible or not math.isfinite(state["best"] or 0):
            raise UserError(
                "--resume: the counters of the checkpoint contradict each other; resume from another checkpoint, or "
                "start a new run"
            )


COUNTED = ("epoch", "epoch_step", "step", "measured", "waited")
COUNTERS = ("steps_per_epoch", *COUNTED, "best", "best_step")
SHOWN = ("steps_per_epoch", "step", "best", "best_step")  # counters that an evaluation of the run needs


def _checked(state: State, optimizer: torch.optim.Optimizer, resting: set[nn.Parameter]) -> State:
    """Check an optimizer's saved state; return it with the settings (learning rate, decay) of the present options.

    Fused kernels do not check the shapes of moments, so the shapes must equal those that an optimizer step creates.
    Every parameter has moments, except the `resting` parameters, which had no gradient. Before the first step no
    parameter has.
    """
    own, made = optimizer.state_dict(), _after_a_step(optimizer, resting)
    if state.get("state") == {}:
        return own
    require_like(state, made, "the checkpoint: optimizer")
    if any(
        found["params"] != group["params"]
        for found, group in zip(state["param_groups"], own["param_groups"], strict=True)
    ):
        raise UserError(
            "the checkpoint holds the optimizer state of another model; resume from a checkpoint of this model"
        )
    # Keep entries that are not settings, such as lamb's count of steps.
    groups = [{**found, **group} for found, group in zip(state["param_groups"], own["param_groups"], strict=True)]
    return {"state": state["state"], "param_groups": groups}


def _after_a_step(optimizer: torch.optim.Optimizer, resting: set[nn.Parameter]) -> State:
    """Return the state of an optimizer after a step in which `resting` parameters have no gradient. A copy is used."""
    twin = copy.deepcopy(optimizer)
    for group, copied in zip(optimizer.param_groups, twin.param_groups, strict=True):
        for weight, other in zip(group["params"], copied["params"], strict=True):
            other.grad = None if weight in resting else torch.zeros_like(other)
    twin.step()
    return twin.state_dict()


def _load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Load an optimizer's state. The tensors get their weights' strides (channels_last) and keep their types.

    Fused optimizers read weights and moments as raw memory, so both need the same strides. torch's own loading would
    convert moments that are kept in 16 bits to the type of the weights.
    """
    optimizer.load_state_dict(state)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, moments in state["state"].items():
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.shape == weights[number].shape:
                like = torch.empty_like(weights[number], dtype=value.dtype)
                optimizer.state[weights[number]][name] = like.copy_(value)
