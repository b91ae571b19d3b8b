"""Training steps and predictions of any net, made alike for ours and the peers'."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.fold import Folds
from tools.benchmarks.machine import DTYPES, device
from tools.benchmarks.rounds import Step
from tools.benchmarks.settings import OURS, Job, Way
from tools.engine.optim import build_optimizer, memory_order
from tools.engine.options import TrainOptions
from tools.engine.state import Precision


@dataclass(frozen=True)
class NetJob:
    """A net of a task to measure; see `benchmark_compare.Job`. A task says how it is prepared.

    Attributes:
        weights: a file that fits both libraries' layouts.
    """

    library: str
    net: Any
    way: Way
    mode: str
    weights: Path | None

    @property
    def batch(self) -> int:
        return self.net.batch


def placed(model: nn.Module, job: Job) -> nn.Module:
    """The net on its device, in its memory format and mode."""
    form = torch.channels_last if job.way.channels_last else torch.contiguous_format
    return model.to(device()).to(memory_format=form).train(job.mode == "train")


def training(model: nn.Module, loss: Callable[[], Tensor], job: Job, *, lr: float = 1e-4) -> Step:
    """Forward, loss, backward, and a fused SGD step: ours that of the training scripts, the peers' torch's own.

    Args:
        lr: small: random weights must not run away to infinity.
    """
    optimizer = build_optimizer(model, TrainOptions(lr=lr))
    precision = Precision(device(), DTYPES[job.way.precision])

    def step() -> None:
        with precision.autocast():
            value = loss()
        value.backward()
        with memory_order(optimizer) if job.library == OURS else nullcontext():
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def prediction(predict: Callable[[], object], job: Job) -> Step:
    """A prediction as the evaluation loop makes it."""
    precision, folds = Precision(device(), DTYPES[job.way.precision]), Folds()

    def step() -> None:
        with torch.inference_mode(), precision.autocast(), folds:
            predict()

    return step


def operations(step: Step) -> int:
    """Multiplications and additions of the convolutions and matrix products of one step, which is run for it."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
