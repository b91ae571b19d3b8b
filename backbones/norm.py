"""Creates a model's normalisation layers by name, and freezes, synchronises or counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from backbones.errors import UserError


def group_norm(channels: int) -> nn.GroupNorm:
    """Return group norm with 32 groups (Wu and He 2018), or with the largest smaller number that divides `channels`."""
    return nn.GroupNorm(next(g for g in range(min(32, channels), 0, -1) if channels % g == 0), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm}


def freeze_batch_norm(module: nn.Module, *, within: Iterable[nn.Module] | None = None) -> nn.Module:
    """Replace the batch norm layers of any model by frozen ones with the same weights and statistics. Works in place.

    Args:
        within: replace only layers inside these parts of `module`. By default all are replaced.

    Returns:
        `module`, or its replacement if it is a batch norm itself.

    Raises:
        UserError: a layer keeps no running statistics, or its class has no frozen form.
    """
    roots = [module] if within is None else within
    chosen = {id(m) for root in roots for m in root.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    if id(module) in chosen:
        return _frozen(module)
    # A layer may be registered under two names. Both get the same replacement.
    made: dict[int, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in chosen:
                setattr(parent, name, made.setdefault(id(child), _frozen(child)))
    return module


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace the batch norm layers of any model by layers that compute statistics over all processes.

    Weights and state-dict keys stay the same. In one process, and in evaluation, the new layers compute the same as
    the old ones. torch synchronises statistics between processes only on GPUs.

    Returns:
        `module`, changed in place, or its replacement if it is a batch norm itself.
    """
    # Use timm's conversion: torch's own drops the activation inside timm's batch norm.
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(module)


def norm_eps(module: nn.Module) -> float | None:
    """Return the epsilon of a model's batch norm, live or frozen; None without batch norm, or if layers differ."""
    found = {float(vars(m)["eps"]) for m in module.modules() if hasattr(m, "running_var")}
    return found.pop() if len(found) == 1 else None


def set_norm_eps(module: nn.Module, eps: float) -> None:
    """Set the epsilon of all batch norm layers, live and frozen."""
    for each in module.modules():
        if hasattr(each, "running_var"):
            vars(each)["eps"] = eps


@contextmanager
def fixed_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norm use its running statistics and leave them as they are, inside this context.

    This is needed for inputs without a single value, whose mean is not a number. Synchronised batch norm of several
    processes is left as it is, because it leaves empty inputs out, and all processes must take part in it.
    """
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    several = several and torch.distributed.get_world_size() > 1
    kinds = nn.BatchNorm2d if several else nn.modules.batchnorm._BatchNorm
    norms = [part for part in module.modules() if isinstance(part, kinds) and part.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def counted_batches(module: nn.Module) -> dict[str, Tensor]:
    """Return a model's state dict with `num_batches_tracked` for every batch norm.

    Frozen batch norm has no such entry and gets 0, because weights files of live batch norm have the entry.
    """
    state = dict(module.state_dict())
    for name, part in module.named_modules():
        if hasattr(part, "running_var"):
            state.setdefault(f"{name}.num_batches_tracked", torch.tensor(0))
    return state


def norm_table(module: nn.Module) -> dict[str, int]:
    """Count a model's normalisation layers by state. States without layers are left out.

    The states are "live", "live, synchronised", "frozen", "group", "layer" and "instance".
    """
    return dict(Counter(state for m in module.modules() if (state := _state(m))))


def has_live_buffers(module: nn.Module) -> bool:
    """Return whether a model has buffers other than the statistics of frozen norm layers."""
    return any(list(part.buffers(recurse=False)) for part in module.modules() if _state(part) != "frozen")


def _state(module: nn.Module) -> str | None:
    # Recognise timm's frozen class by its name, because importing timm takes long.
    if type(module).__name__.startswith("FrozenBatchNorm"):
        return "frozen"
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (nn.SyncBatchNorm, "live, synchronised"),
        (nn.modules.batchnorm._BatchNorm, "live"),
        (nn.GroupNorm, "group"),
        (nn.LayerNorm, "layer"),
        (nn.modules.instancenorm._InstanceNorm, "instance"),
    ]
    return next((state for kind, state in kinds if isinstance(module, kind)), None)


def _frozen(norm: nn.Module) -> nn.Module:
    """Return a frozen batch norm layer with the weights, statistics and device of a live one."""
    if norm.running_mean is None or norm.running_var is None:
        raise UserError(f"{norm} keeps no running statistics, so it cannot be frozen; use norm='batch'")
    frozen = _empty_frozen(norm)
    for key in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(norm, key)
        if value is not None:  # with affine=False, keep the ones and zeros of the new layer
            getattr(frozen, key).copy_(value.detach())
    return frozen.train(norm.training)


def _empty_frozen(norm: Any) -> nn.Module:
    like = norm.running_mean  # device and dtype: a model in double precision stays so
    if type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return FrozenBatchNorm2d(norm.num_features, eps=norm.eps).to(like)
    if hasattr(norm, "act") and hasattr(norm, "drop"):
        # timm's batch norm also applies the activation, which the frozen layer must keep.
        from timm.layers.norm_act import FrozenBatchNormAct2d

        frozen: Any = FrozenBatchNormAct2d(norm.num_features, eps=norm.eps).to(like)
        frozen.act, frozen.drop = norm.act, norm.drop
        return frozen
    raise UserError(
        f"{type(norm).__name__} layers cannot be frozen; use norm='batch', or freeze only stages without such layers"
    )
