"""What changes while a net is trained, and how a checkpoint holds it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from backbones.errors import UserError
from tools.engine.checkpoint import require_like
from tools.engine.stages import Thawing
from tools.processes import distributed


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
    """Everything that changes while a net is trained.

    Attributes:
        thawing: what says which frozen stages train by now.
        steps_per_epoch: optimizer steps of an epoch; other data have another number.
        epoch: epochs that are done.
        epoch_step: steps done of the epoch after those; all of them until its end is evaluated and saved.
        step: steps done in all. With the options it says the learning rate and the order of the images.
        measured: the step of the last evaluation.
        best: the best score so far.
        waited: evaluations since then.
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
    waited: int = 0
    stopping: bool = False

    @property
    def evaluated(self) -> nn.Module:
        """The net to evaluate and to save: the moving average where there is one."""
        return self.ema.module if self.ema else distributed.unwrap(self.model)

    def begin_epoch(self) -> None:
        """Thaw the stages that are due.

        DistributedDataParallel exchanges the gradients of what trained when it was made: another takes its place.
        """
        if self.thawing and self.thawing.set_epoch(self.epoch):
            self.model = distributed.unwrap(self.model)
            self.model = distributed.wrap(self.model, self.precision.device)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and JSON values."""
        return {
            "model": distributed.unwrap(self.model).state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            **{name: getattr(self, name) for name in COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`'s output.

        Raises:
            UserError: where it is of another net, optimizer or number of steps.
        """
        require_like(state, {**self.state_dict(), "optimizer": dict, "best": float | int | None}, "the checkpoint")
        self._require_place(state)
        moments = _checked(state["optimizer"], self.optimizer, self._resting(state))
        self.load_net(state)
        _take_moments(self.optimizer, moments)
        self.precision.scaler.load_state_dict(state["scaler"])
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.schedule.step_update(self.step)

    def load_net(self, state: dict[str, Any]) -> None:
        """Take the weights alone of `state_dict()`'s output.

        Raises:
            UserError: where they are of another net.
        """
        model, ema = distributed.unwrap(self.model), self.ema.module if self.ema else None
        own = {"model": model.state_dict(), "ema": ema.state_dict() if ema else None}
        require_like({name: state.get(name) for name in own}, own, "the checkpoint")
        model.load_state_dict(state["model"])
        if ema:
            ema.load_state_dict(state["ema"])

    def _resting(self, state: dict[str, Any]) -> set[nn.Parameter]:
        """The parameters that had not trained when the state was saved, and will."""
        last = state["epoch"] - (state["epoch_step"] == 0)  # the epoch of the last step, from 0
        return self.thawing.still_frozen(last) if self.thawing else set()

    def _require_place(self, state: dict[str, Any]) -> None:
        now, before = self.steps_per_epoch, state["steps_per_epoch"]
        if now != before:
            raise UserError(
                f"--resume: the data give {now} steps an epoch, not {before} as before; bring its images back, "
                "or start a new run"
            )
        epoch, epoch_step, step, measured, waited = (state[name] for name in COUNTED)
        possible = epoch >= 0 and 0 <= epoch_step <= now and step == epoch * now + epoch_step
        possible = possible and 0 <= measured <= step and 0 <= waited <= step
        if not possible or not math.isfinite(state["best"] or 0):
            raise UserError("--resume: the checkpoint counts steps that cannot be; resume from another, or start anew")


COUNTED = ("epoch", "epoch_step", "step", "measured", "waited")
COUNTERS = ("steps_per_epoch", *COUNTED, "best")


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Of this process's generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Go on with the numbers that `random_state` found; a generator that it did not have stays as it is.

    Raises:
        UserError: where the state is none.
    """
    try:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], device)
    except (RuntimeError, TypeError, KeyError, AttributeError):
        raise UserError("the checkpoint: its random state is none; resume from another checkpoint") from None


def _checked(state: dict[str, Any], optimizer: torch.optim.Optimizer, resting: set[nn.Parameter]) -> dict[str, Any]:
    """An optimizer's state from a checkpoint, its settings (learning rate, decay) replaced by those of the options.

    Fused kernels take moments without looking at their shapes: they must be as those that a step makes. Every weight
    takes a gradient, so all but the `resting` ones have moments, or none has before the first step.
    """
    own, made = optimizer.state_dict(), _after_a_step(optimizer, resting)
    if state.get("state") == {}:
        return own
    require_like(state, made, "the checkpoint: optimizer")
    if any(
        found["params"] != group["params"]
        for found, group in zip(state["param_groups"], own["param_groups"], strict=True)
    ):
        raise UserError("the checkpoint: optimizer: is of another net; resume from another checkpoint")
    # What is no setting stays, such as lamb's count of steps.
    groups = [{**found, **group} for found, group in zip(state["param_groups"], own["param_groups"], strict=True)]
    return {"state": state["state"], "param_groups": groups}


def _after_a_step(optimizer: torch.optim.Optimizer, resting: set[nn.Parameter]) -> dict[str, Any]:
    """The state that an optimizer has once it made a step without the `resting` weights, found by one of a copy."""
    twin = copy.deepcopy(optimizer)
    for group, copied in zip(optimizer.param_groups, twin.param_groups, strict=True):
        for weight, other in zip(group["params"], copied["params"], strict=True):
            other.grad = None if weight in resting else torch.zeros_like(other)
    twin.step()
    return twin.state_dict()


def _take_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, its tensors with the strides of their weights (channels_last) and types of their own.

    Fused optimizers walk both as raw memory; torch would cast what an optimizer keeps in 16 bits.
    """
    optimizer.load_state_dict(state)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, moments in state["state"].items():
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.shape == weights[number].shape:
                like = torch.empty_like(weights[number], dtype=value.dtype)
                optimizer.state[weights[number]][name] = like.copy_(value)
