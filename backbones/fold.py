"""Folds batch norm into the convolution before it, so that one layer computes the result of both.

With frozen statistics, batch norm is an affine map of each channel c:

    norm(y)_c = g_c * (y_c - m_c) / sqrt(v_c + eps) + b_c = s_c * y_c + t_c
    s_c = g_c / sqrt(v_c + eps),  t_c = b_c - m_c * s_c

Convolution is linear, so norm(W * x + bias) is one convolution with the weight s_c W_c and the bias s_c bias_c + t_c.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

Folded: TypeAlias = tuple[Tensor, Tensor]  # weight and bias
Norm: TypeAlias = nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d
# The objects that this thread or task has entered; the first one, the outermost, is active.
_entered: ContextVar[tuple[Folds, ...]] = ContextVar("folds", default=())


class Folds:
    """Context manager that caches folded conv+BN weights; the weights must not change inside it.

        folds = Folds()
        with torch.inference_mode(), folds:
            model(images)

    Inside it, live batch norm in evaluation mode is folded as well, but only if autocast computes in 16 bits, whose
    rounding error is larger than the difference that folding makes. In fp32 the outputs stay those of the two layers to
    the last bit.

    The same object may be entered several times, also by several threads at once, and keeps its cache. Use a new object
    after the weights have changed. Inside the context of another object it has no effect.
    """

    def __init__(self) -> None:
        self.cache: WeakKeyDictionary[nn.Module, dict[torch.dtype | None, Folded]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Folds], tuple[()]]:
        return Folds, ()  # a copy begins with an empty cache, because it holds copies of the layers

    def __enter__(self) -> Folds:
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(self, *_: object) -> None:
        _entered.set(_entered.get()[:-1])


def conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """Return norm(conv(x)). If the norm is frozen, or inside `Folds`, it is folded into the convolution.

    Scaling the weight costs less than a pass over the feature map. The gradient still reaches conv.weight, and the
    keys of the state dict stay.
    """
    folds = None if torch.is_grad_enabled() else next(iter(_entered.get()), None)
    if not _is_foldable(conv, norm) or not _is_fixed(x, norm, folds):
        return norm(conv(x))
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, Norm)
    weight, bias = fold(conv, norm) if folds is None else _cached(folds, x, conv, norm)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def fold(conv: nn.Conv2d, norm: Norm) -> Folded:
    """Return weight and bias of the one convolution that computes norm(conv(x)) with the norm's running statistics."""
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor) and isinstance(variance, Tensor)
    # s = g / sqrt(v + eps), t = b - m s
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    return conv.weight * scale[:, None, None, None], shift


def _is_foldable(conv: nn.Module, norm: nn.Module) -> bool:
    """Return whether a convolution and a norm can be folded: both must be torch's own layers, without hooks."""
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
        and not any((m._forward_hooks or m._forward_pre_hooks) for m in (conv, norm))
    )


def _is_fixed(x: Tensor, norm: nn.Module, folds: Folds | None) -> bool:
    """Return whether a norm's statistics are fixed and folding the norm does not reduce the precision."""
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    if not isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return False
    fixed = not norm.training and norm.affine and norm.running_mean is not None
    return folds is not None and fixed and _autocast_dtype(x) is not None


def _cached(folds: Folds, x: Tensor, conv: nn.Conv2d, norm: Norm) -> Folded:
    """Return the folded weights in autocast's dtype. They are computed on first use and then cached."""
    dtype = _autocast_dtype(x)
    cache = folds.cache.setdefault(conv, {})
    if dtype not in cache:
        weight, bias = fold(conv, norm)
        cache[dtype] = weight.to(dtype or weight.dtype), bias.to(dtype or bias.dtype)
    return cache[dtype]


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype in which autocast computes a convolution of `x`, or None if autocast is off or not supported."""
    kind = x.device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.get_autocast_dtype(kind) if available and torch.is_autocast_enabled(kind) else None
