"""What changes while a net is trained, and how a checkpoint holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from backbones.errors import UserError
from tools import distributed
from tools.checkpoint import require_like

# What torch's own optimizers remember of each weight; their fused kernels take it without looking at its shape.
MOMENTS: dict[type, set[str]] = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}


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
        self._require_fit(state)
        distributed.unwrap(self.model).load_state_dict(state["model"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        _lay_out_like_weights(self.optimizer)
        self.precision.scaler.load_state_dict(state["scaler"])
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.schedule.step_update(self.step)

    def _require_fit(self, state: dict[str, Any]) -> None:
        own = self.state_dict()
        optimizer = {"state": dict, "param_groups": own["optimizer"]["param_groups"]}
        require_like(state, {**own, "optimizer": optimizer, "best": float | int | None}, "the checkpoint")
        _require_moments(state["optimizer"], self.optimizer)
        if state["steps_per_epoch"] != self.steps_per_epoch:
            now, before = self.steps_per_epoch, state["steps_per_epoch"]
            raise UserError(
                f"--resume: the data give {now} steps an epoch, not {before} as before; bring its images back, "
                "or start a new run"
            )
        if not 0 <= state["epoch_step"] <= self.steps_per_epoch or min(state[name] for name in COUNTED) < 0:
            raise UserError("--resume: the checkpoint counts steps that cannot be; start a new run")


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


def _require_moments(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Refuse moments of other weights than the optimizer's: each takes a gradient, so all have moments or none has."""
    own = optimizer.state_dict()["param_groups"]
    numbers = [number for group in own for number in group["params"]]
    weights = dict(zip(numbers, (p for group in optimizer.param_groups for p in group["params"]), strict=True))
    moments = state["state"]
    fits = [group["params"] for group in state["param_groups"]] == [group["params"] for group in own]
    fits &= moments.keys() in (set(), weights.keys())
    fits &= all(isinstance(entry, dict) and all(isinstance(name, str) for name in entry) for entry in moments.values())
    if fits and moments and type(optimizer) in MOMENTS:  # others are timm's, which look at shapes themselves
        known = MOMENTS[type(optimizer)]
        fits = {frozenset(entry) for entry in moments.values()} in ({frozenset()}, {frozenset(known)})
        fits &= all(_is_moment(name, value, weights[n]) for n in moments for name, value in moments[n].items())
    if not fits:
        raise UserError("the checkpoint: its optimizer's state is of another net; resume from another checkpoint")


def _is_moment(name: str, value: Any, weight: nn.Parameter) -> bool:
    shape = torch.Size() if name == "step" else weight.shape
    return torch.is_tensor(value) and value.is_floating_point() and value.shape == shape


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments the strides of their weights (channels_last): fused optimizers walk both as raw memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
