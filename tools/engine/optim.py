"""Builds the optimizer and the learning-rate schedule from the options of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, TypedDict

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from backbones.errors import UserError, first_line
from tools.engine.options import TrainOptions
from tools.engine.stages import describe_stages, stage_depths

# Families of timm's optimizers by their classes. The learning rate of plain ones is linear in the batch size. That of
# adaptive ones, which normalise each step by the gradients' history, sign or spectrum, grows with its square root.
PLAIN = {"SGD", "SGDW", "SGDP", "Lars", "SGD8bit", "FusedSGD"}
ADAPTIVE = {
    *("Adam", "AdamW", "AdamWLegacy", "AdamP", "Adamax", "NAdam", "NAdamLegacy", "NAdamW", "RAdam", "RAdamLegacy"),
    *("Adam8bit", "AdamW8bit", "AdEMAMix", "AdEMAMix8bit", "FusedAdam", "AdaBelief", "Adan", "Adopt", "LaProp"),
    *("Adadelta", "Adagrad", "RMSprop", "RMSpropTF", "Adafactor", "AdafactorBigVision", "MADGRAD", "Mars"),
    *("Lamb", "FusedLAMB", "NvNovoGrad", "FusedNovoGrad", "Lion", "Lion8bit", "Muon", "Kron", "Adahessian"),
}
FUSED = {"adam", "adamw", "sgd", "momentum"}  # torch's own: one pass over the weights, on CPUs as well
ParameterGroup: TypeAlias = dict[str, Any]  # torch's: a list `params`, and options such as timm's `lr_scale`
CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # orders of dimensions, each the inverse of the other


class Warmup(TypedDict):
    """Keyword arguments of timm's schedules for the warmup."""

    warmup_t: int
    warmup_lr_init: float
    t_in_epochs: bool
    warmup_prefix: bool


def learning_rate(options: TrainOptions) -> tuple[float, str]:
    """Return the learning rate, and a description of the rule that determined it.

    The rule is linear in the batch size for SGD (Goyal et al. 2017), and uses its square root for adaptive optimizers
    (Malladi et al. 2022).
    """
    if options.lr is not None:
        return options.lr, "as given"
    ratio = options.batch_size / options.base_batch_size
    if is_adaptive(options.optimizer):
        rule = f"{options.base_lr} x sqrt({options.batch_size} / {options.base_batch_size})"
        return options.base_lr * ratio**0.5, rule
    return options.base_lr * ratio, f"{options.base_lr} x {options.batch_size} / {options.base_batch_size}"


def is_adaptive(optimizer: str) -> bool:
    """Return whether an optimizer is one of the adaptive ones in `ADAPTIVE`.

    Raises:
        UserError: timm has no optimizer of that name, or its family is not known here.
    """
    if optimizer not in list_optimizers():
        raise UserError(f"--optimizer {optimizer}: unknown; use momentum, sgd, adamw, lamb, lion, ...")
    kind = get_optimizer_info(optimizer).opt_class
    family = (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
    if family not in PLAIN | ADAPTIVE:
        raise UserError(
            f"--optimizer {optimizer}: there is no rule by which its learning rate follows the batch "
            "size; use another optimizer, such as adamw"
        )
    return family in ADAPTIVE


def build_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """Build the optimizer that has the given name in timm, for the trainable parameters of a model.

    Biases and norm layers have no weight decay. The first parameter group has the heads' learning rate. With
    `layer_decay` or `thaw`, each stage has groups of its own.

    Raises:
        UserError: timm has no optimizer of that name, or it cannot be used here.
    """
    extra: dict[str, Any] = {} if is_adaptive(options.optimizer) else {"momentum": options.momentum}
    if "momentum" in extra and not options.momentum and "nesterov" in _defaults(options.optimizer):
        extra["nesterov"] = False  # torch refuses Nesterov's form of no momentum, which is the same as none
    if options.optimizer in FUSED:
        extra["fused"] = True
    if get_optimizer_info(options.optimizer).second_order:
        raise _unusable(options, "it needs second derivatives, which are not computed")
    try:
        return create_optimizer_v2(
            model,
            opt=options.optimizer,
            lr=learning_rate(options)[0],
            weight_decay=options.weight_decay,
            param_group_fn=partial(_groups_by_stage, options) if options.layer_decay < 1 or options.thaw else None,
            **extra,
        )
    except (AssertionError, ImportError, ValueError) as error:  # timm's errors for absent libraries, GPUs and values
        raise _unusable(options, first_line(error)) from error


def _defaults(optimizer: str) -> Mapping[str, Any]:
    """Return the keyword arguments that timm adds for an optimizer's name."""
    return get_optimizer_info(optimizer).defaults or {}


def _unusable(options: TrainOptions, why: str) -> UserError:
    return UserError(f"--optimizer {options.optimizer}: cannot be used here ({why}); use another, such as adamw")


def _groups_by_stage(options: TrainOptions, model: nn.Module) -> list[ParameterGroup]:
    """Split timm's groups by weight decay further by stage, the heads first.

    Layer-wise learning-rate decay as in BEiT (Bao et al. 2021, https://arxiv.org/abs/2106.08254), by stages instead of
    blocks. Stages that thaw need separate groups too, because torch's fused SGD requires the same number of steps for
    all parameters of a group.
    """
    depths = stage_depths(model)
    groups: dict[tuple[int, float], ParameterGroup] = {}
    for group in param_groups_weight_decay(model, options.weight_decay):
        for parameter in group["params"]:
            depth = depths.get(parameter, 0)
            empty: ParameterGroup = {**group, "params": [], "lr_scale": options.layer_decay**depth}
            groups.setdefault((depth, group["weight_decay"]), empty)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def rate_rows(model: nn.Module, options: TrainOptions) -> dict[str, str]:
    """Return rows of the plan: the learning rate, and how each stage trains unless all stages train alike."""
    lr, rule = learning_rate(options)
    rows = {"lr": f"{lr:.4g} ({rule}), {options.optimizer}, {options.schedule}"}
    stages = describe_stages(model, lr=lr, layer_decay=options.layer_decay, thaw=options.thaw or ())
    return {**rows, "stages": stages} if stages else rows


def gradient_norm(model: nn.Module) -> Tensor:
    """Return the norm (a scalar) of the gradients of all parameters. It is not finite if any gradient is not."""
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


@contextmanager
def memory_order(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Context manager in which a fused CPU optimizer gets channels_last weights as contiguous tensors, which is faster.

    torch's fused kernels copy tensors that are not contiguous (weight, gradient and moments) before and after each
    step, which takes as long as the step itself. The dimensions are permuted to the order in memory, without a copy,
    and permuted back afterwards.
    """
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    permuted = [p for p in parameters if _is_channels_last(p)] if optimizer.defaults.get("fused") else []
    _permute(permuted, optimizer, CHANNELS_LAST)
    try:
        yield
    finally:
        _permute(permuted, optimizer, CHANNELS_FIRST)


def _permute(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, order: tuple[int, ...]) -> None:
    """Permute the dimensions of weights, their gradients and their moments to `order`."""
    for parameter in parameters:
        gradient, state = parameter.grad, optimizer.state.get(parameter, {})
        parameter.data = parameter.data.permute(order)
        parameter.grad = gradient.permute(order) if gradient is not None else None
        state.update({k: v.permute(order) for k, v in state.items() if torch.is_tensor(v) and v.ndim == 4})


def _is_channels_last(parameter: nn.Parameter) -> bool:
    """Return whether a parameter and its gradient are on the CPU and channels_last in memory."""
    both = (parameter, parameter.grad)
    return parameter.device.type == "cpu" and all(
        t is not None and t.ndim == 4 and not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)
        for t in both
    )


def build_schedule(optimizer: torch.optim.Optimizer, options: TrainOptions, steps: int) -> Scheduler:
    """Build a learning-rate schedule for `steps` optimizer steps.

    Call `schedule.step_update(step)` after each step with the number of steps done.
    """
    warmup: Warmup = {
        "warmup_t": min(int(steps * options.warmup + 0.5), max(steps - 1, 0)),
        "warmup_lr_init": learning_rate(options)[0] / 1000,
        "t_in_epochs": False,
        "warmup_prefix": False,  # the warm-up is part of the run: milestones count from the start of the run
    }
    # A cosine over one step changes nothing, and timm warns of it. An evaluation has no steps.
    if options.schedule == "cosine" and steps > 1:
        return CosineLRScheduler(optimizer, t_initial=steps, **warmup)
    # timm decays when t + 1 reaches a milestone; ours count the steps done.
    milestones = [round(steps * at) + 1 for at in options.milestones] if options.schedule == "step" else []
    return MultiStepLRScheduler(optimizer, decay_t=milestones, decay_rate=0.1, **warmup)
