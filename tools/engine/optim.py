"""Optimizer and learning-rate schedule: what turns options into update steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from backbones.errors import UserError
from tools.engine.options import TrainOptions
from tools.engine.stages import depths, describe_stages

# Optimizers that scale each weight's step by its own gradient history want the square root of the batch's growth.
ADAPTIVE = ("adam", "lamb", "lion", "rmsprop", "adan", "nadam", "radam")

FUSED = {"adam", "adamw", "sgd", "momentum"}  # torch's own: one pass over the weights, on CPUs as well


def learning_rate(options: TrainOptions) -> tuple[float, str]:
    """The learning rate and the rule that gave it, in words.

    Linear in the batch size for SGD (Goyal et al. 2017), with its square root for adaptive optimizers (Malladi et
    al. 2022).
    """
    if options.lr is not None:
        return options.lr, "as given"
    ratio = options.batch_size / options.base_batch_size
    if options.optimizer.startswith(ADAPTIVE):
        rule = f"{options.base_lr} x sqrt({options.batch_size} / {options.base_batch_size})"
        return options.base_lr * ratio**0.5, rule
    return options.base_lr * ratio, f"{options.base_lr} x {options.batch_size} / {options.base_batch_size}"


def build_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """timm's optimizer of that name over the trainable parameters; biases and norm layers take no weight decay.

    Its first group has the heads' learning rate, those of stages theirs where `layer_decay` or `thaw` tells them apart.

    Raises:
        UserError: for a name that timm does not know.
    """
    if options.optimizer not in list_optimizers():
        raise UserError(f"--optimizer {options.optimizer}: unknown; there are momentum, sgd, adamw, lamb, lion, ...")
    extra: dict[str, Any] = {} if options.optimizer.startswith(ADAPTIVE) else {"momentum": options.momentum}
    if options.optimizer in FUSED:
        extra["fused"] = True
    return create_optimizer_v2(
        model,
        opt=options.optimizer,
        lr=learning_rate(options)[0],
        weight_decay=options.weight_decay,
        param_group_fn=partial(_groups_by_stage, options) if options.layer_decay < 1 or options.thaw else None,
        **extra,
    )


def _groups_by_stage(options: TrainOptions, model: nn.Module) -> list[dict[str, Any]]:
    """timm's groups by weight decay, each split by stage, the heads first; timm's schedules heed `lr_scale`.

    Layer-wise decay as in BEiT (Bao et al. 2021, https://arxiv.org/abs/2106.08254), by stages instead of blocks. Stages
    that thaw want groups of their own as well: torch's fused SGD wants the same number of steps behind all of a group.
    """
    behind = depths(model)
    groups: dict[tuple[int, float], dict[str, Any]] = {}
    for group in param_groups_weight_decay(model, options.weight_decay):
        for parameter in group["params"]:
            depth = behind.get(parameter, 0)
            fresh = {**group, "params": [], "lr_scale": options.layer_decay**depth}
            groups.setdefault((depth, group["weight_decay"]), fresh)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def rate_rows(model: nn.Module, options: TrainOptions) -> dict[str, str]:
    """The plan's rows on the learning rate, and on the stages where they do not all train alike."""
    lr, rule = learning_rate(options)
    rows = {"lr": f"{lr:.4g} ({rule}), {options.optimizer}, {options.schedule}"}
    stages = describe_stages(model, lr=lr, layer_decay=options.layer_decay, thaw=options.thaw or ())
    return {**rows, "stages": stages} if stages else rows


@contextmanager
def memory_order(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Show a fused step on a CPU the channels_last weights in the order of their memory.

    torch's kernels copy what is not contiguous there (weight, gradient and moments) before and after each step, which
    takes as long as the step itself.
    """
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    turned = (
        [parameter for parameter in parameters if _lies_turned(parameter)] if optimizer.defaults.get("fused") else []
    )
    _turn(turned, optimizer, (0, 2, 3, 1))
    try:
        yield
    finally:
        _turn(turned, optimizer, (0, 3, 1, 2))


def _turn(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, order: tuple[int, ...]) -> None:
    for parameter in parameters:
        gradient, state = parameter.grad, optimizer.state.get(parameter, {})
        parameter.data = parameter.data.permute(order)
        parameter.grad = gradient.permute(order) if gradient is not None else None
        state.update({k: v.permute(order) for k, v in state.items() if torch.is_tensor(v) and v.ndim == 4})


def _lies_turned(parameter: nn.Parameter) -> bool:
    """Whether weight and gradient lie in memory with the channels last."""
    both = (parameter, parameter.grad)
    return parameter.device.type == "cpu" and all(
        t is not None and t.ndim == 4 and not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)
        for t in both
    )


def build_schedule(optimizer: torch.optim.Optimizer, options: TrainOptions, steps: int) -> Scheduler:
    """A schedule over `steps` optimizer steps; call `schedule.step_update(step)` with the number of steps done."""
    warmup = min(int(steps * options.warmup + 0.5), max(steps - 1, 0))
    common: dict[str, Any] = {
        "warmup_t": warmup,
        "warmup_lr_init": learning_rate(options)[0] / 1000,
        "t_in_epochs": False,
        "warmup_prefix": False,  # the warm-up is part of the run: milestones count from its beginning
    }
    if options.schedule == "cosine":
        return CosineLRScheduler(optimizer, t_initial=max(steps, 1), **common)
    # timm decays when t + 1 reaches a milestone; ours count the steps done.
    milestones = [round(steps * at) + 1 for at in options.milestones] if options.schedule == "step" else []
    return MultiStepLRScheduler(optimizer, decay_t=milestones, decay_rate=0.1, **common)
