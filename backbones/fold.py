"""Batch norm at rest folded into the convolution before it: one layer does the arithmetic of two.

The folded weight is kept for as long as nothing is learnt and nothing it was made of changes, so that a prediction
pays for it once. torch counts most changes of a tensor. It does not count those of fused optimizers, so nothing is
kept past a forward pass that could be learnt from, nor while a gradient waits for its step; nor those of running
statistics, for which `num_batches_tracked` speaks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


@dataclass(frozen=True)
class _Fold:
    """What was made, and the very tensors that it was made of, in their states then."""

    sources: tuple[Tensor, ...]
    state: tuple[Any, ...]
    weight: Tensor
    shift: Tensor


_kept: "WeakKeyDictionary[nn.Conv2d, _Fold]" = WeakKeyDictionary()


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """norm(conv(x)), where possible in one convolution with a scaled weight.

    Scaling the small weight is cheaper than a pass over the map. The gradient still reaches conv.weight, and
    no state-dict key changes.
    """
    learning = torch.is_grad_enabled() and conv.weight.requires_grad
    if learning:
        _kept.pop(conv, None)
    if not folds(x, conv, norm):
        return norm(conv(x))
    weight, shift = _fold(conv, norm) if learning else folded(x, conv, norm)
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def folds(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> bool:
    """Whether norm(conv(x)) is to be computed by one convolution.

    Frozen batch norm always is. Live batch norm in evaluation is under autocast, whose rounding is coarser than the
    difference: in fp32 the outputs stay those of the two layers to the last bit.
    """
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return (
        isinstance(norm, nn.modules.batchnorm._BatchNorm)
        and not norm.training
        and norm.affine
        and norm.running_mean is not None
        and not torch.is_grad_enabled()
        and _autocast_dtype(x) is not None
        and not (conv._forward_hooks or norm._forward_hooks)  # somebody watches the two layers
    )


def folded(x: Tensor, conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and shift of the one convolution, without gradient and in the type that an input like `x` meets."""
    dtype = _autocast_dtype(x)
    sources = tuple(t for t in (conv.weight, conv.bias, *_numbers(norm)) if t is not None)
    if not _traceable(sources):
        return _fold(conv, norm)
    state = (dtype, *((t._version, t.data_ptr()) for t in sources))
    kept = _kept.get(conv)
    if kept is None or kept.state != state or any(a is not b for a, b in zip(kept.sources, sources, strict=True)):
        # No inference tensors: a training step through frozen layers may want them later.
        with torch.inference_mode(False), torch.no_grad():
            weight, shift = _fold(conv, norm)
            kept = _Fold(sources, state, weight.to(dtype or weight.dtype), shift.to(dtype or shift.dtype))
        _kept[conv] = kept
    return kept.weight, kept.shift


def forget(convs: Iterable[nn.Module]) -> None:
    """Drop what is kept for these modules, such as after a write that torch cannot see (`weight.data`)."""
    for conv in convs:
        if isinstance(conv, nn.Conv2d):
            _kept.pop(conv, None)


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast makes of a convolution's input, or None where it is off or unknown to the device (meta)."""
    kind = x.device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.get_autocast_dtype(kind) if available and torch.is_autocast_enabled(kind) else None


def _traceable(sources: Iterable[Tensor]) -> bool:
    """Whether changes of all these tensors can be noticed."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return not any(t.is_inference() or t.grad is not None for t in sources)


def _fold(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    return conv.weight * scale[:, None, None, None], shift


def _numbers(norm: Any) -> tuple[Tensor | None, ...]:
    batches = getattr(norm, "num_batches_tracked", None)
    return norm.weight, norm.bias, norm.running_mean, norm.running_var, batches
