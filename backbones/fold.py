"""Batch norm at rest folded into the convolution before it: one layer does the arithmetic of two."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

Folded = tuple[Tensor, Tensor]  # weight and shift
_active: ContextVar[Folds | None] = ContextVar("folds", default=None)


class Folds:
    """A stretch of predictions with weights that stay as they are: what is folded is kept for the next image.

        folds = Folds()
        with torch.inference_mode(), folds:
            model(images)

    Inside, live batch norm in evaluation mode is folded as well where autocast computes in 16 bits, whose rounding is
    coarser than the difference; in fp32 the outputs stay those of the two layers to the last bit. The object may be
    entered again and again, and whoever changes weights takes a new one. Within another's stretch it adds nothing.
    """

    def __init__(self) -> None:
        self.kept: WeakKeyDictionary[nn.Module, dict[torch.dtype | None, Folded]] = WeakKeyDictionary()
        self._tokens: list[Token[Folds | None]] = []

    def __enter__(self) -> Folds:
        self._tokens.append(_active.set(_active.get() or self))
        return self

    def __exit__(self, *_: Any) -> None:
        _active.reset(self._tokens.pop())


def conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """norm(conv(x)), with a frozen batch norm folded into the weight on the fly; see `Folds` for live ones.

    Scaling the small weight is cheaper than a pass over the map. The gradient still reaches conv.weight, and
    no state-dict key changes.
    """
    folds = None if torch.is_grad_enabled() else _active.get()
    if not _is_plain(conv, norm) or not _rests(x, norm, folds):
        return norm(conv(x))
    assert isinstance(conv, nn.Conv2d)
    weight, shift = fold(conv, norm) if folds is None else _keep(folds, x, conv, norm)
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def fold(conv: nn.Conv2d, norm: Any) -> Folded:
    """Weight and shift of the one convolution that computes norm(conv(x)), from the norm's running statistics."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    return conv.weight * scale[:, None, None, None], shift


def _is_plain(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether the two layers are torch's own and nobody watches or changes them: pruning does so by hooks."""
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
        and not any((m._forward_hooks or m._forward_pre_hooks) for m in (conv, norm))
    )


def _rests(x: Tensor, norm: Any, folds: Folds | None) -> bool:
    """Whether a norm computes with numbers that stay, and folding it costs no precision."""
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    at_rest = not norm.training and norm.affine and norm.running_mean is not None
    return folds is not None and at_rest and _autocast_dtype(x) is not None


def _keep(folds: Folds, x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Folded:
    """The fold in the type that autocast would make of it, made at its first use."""
    dtype = _autocast_dtype(x)
    kept = folds.kept.setdefault(conv, {})
    if dtype not in kept:
        weight, shift = fold(conv, norm)
        kept[dtype] = weight.to(dtype or weight.dtype), shift.to(dtype or shift.dtype)
    return kept[dtype]


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast makes of a convolution's input, or None where it is off or unknown to the device (meta)."""
    kind = x.device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.get_autocast_dtype(kind) if available and torch.is_autocast_enabled(kind) else None
