"""Normalisation layers: made by name, frozen or synchronised by module object, counted."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from backbones.errors import UserError


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups (Wu and He 2018), or the largest smaller number that divides the channels."""
    return nn.GroupNorm(next(g for g in range(min(32, channels), 0, -1) if channels % g == 0), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm}


def freeze_batch_norm(module: nn.Module, *, within: Iterable[nn.Module] | None = None) -> nn.Module:
    """Replace batch norm by frozen batch norm with the same numbers, in place, on any network.

    Args:
        within: replace only what lies in these parts of `module` (all of it by default).

    Returns:
        `module`, or its replacement where it is a batch norm itself.
    """
    roots = [module] if within is None else within
    chosen = {id(m) for root in roots for m in root.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    if id(module) in chosen:
        return _frozen(module)
    # One layer may hang in two places: both get the same replacement.
    made: dict[int, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in chosen:
                setattr(parent, name, made.setdefault(id(child), _frozen(child)))
    return module


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace batch norm by one whose statistics are those of all processes together, on any network.

    Numbers and state-dict keys stay. On one process, and in evaluation, it computes what batch norm does; between
    processes torch synchronises it on GPUs only.

    Returns:
        `module`, changed in place, or its replacement where it is a batch norm itself.
    """
    # timm's, since torch's own forgets the activation inside timm's batch norm.
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(module)


def counted_batches(module: nn.Module) -> dict[str, Tensor]:
    """The entries of a net as they would be with live batch norm: frozen ones count no batches, live ones do."""
    state = dict(module.state_dict())
    for name, part in module.named_modules():
        if hasattr(part, "running_var"):
            state.setdefault(f"{name}.num_batches_tracked", torch.tensor(0))
    return state


def norm_table(module: nn.Module) -> dict[str, int]:
    """Number of normalisation layers by state: "live", "live, synchronised", frozen, group, layer, instance.

    States without layers are absent.
    """
    return dict(Counter(state for m in module.modules() if (state := _state(m))))


def _state(module: nn.Module) -> str | None:
    # timm's frozen class is known by its name, so that counting does not import timm.
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
    """The frozen twin of a batch norm, on its device."""
    if norm.running_mean is None or norm.running_var is None:
        raise UserError(f"{norm} keeps no running statistics, so it cannot be frozen; take norm='batch'")
    frozen = _empty_twin(norm)
    for key in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(norm, key)
        if value is not None:  # affine=False leaves the twin's ones and zeros
            getattr(frozen, key).copy_(value.detach())
    return frozen.train(norm.training)


def _empty_twin(norm: Any) -> nn.Module:
    device = norm.running_mean.device
    if type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return FrozenBatchNorm2d(norm.num_features, eps=norm.eps).to(device)
    if hasattr(norm, "act") and hasattr(norm, "drop"):
        # timm's batch norm applies the activation as well, which the twin has to keep.
        from timm.layers.norm_act import FrozenBatchNormAct2d

        twin: Any = FrozenBatchNormAct2d(norm.num_features, eps=norm.eps).to(device)
        twin.act, twin.drop = norm.act, norm.drop
        return twin
    raise UserError(f"{type(norm).__name__} has no frozen form; take norm='batch' and freeze no stage that holds it")
