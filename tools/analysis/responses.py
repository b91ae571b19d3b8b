"""What the layers of a net answer to a batch: standard deviations and gradient norms, layer by layer.

Section 4.2 and figure 7 of the ResNet paper: responses are the outputs of each convolution after its batch norm and
before the nonlinearity or the addition.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.errors import UserError


@dataclass
class Response:
    """A convolution layer in the order of computation.

    Attributes:
        layer: its name in the net.
        kernel: sides of its window in pixels, such as (3, 3).
        std: standard deviation of its normalised output over images, channels and places.
        gradient: Euclidean norm of the loss's gradient by its weight.
    """

    layer: str
    kernel: tuple[int, ...]
    std: float
    gradient: float = float("nan")


def measure(net: nn.Module, images: Tensor, labels: Tensor) -> list[Response]:
    """Responses and gradients of a classification net, from one pass in training mode; `net` stays as it is.

    Batch norm takes the statistics of the batch: running ones mean nothing before training.

    Args:
        images: [N, C, H, W] as the net takes them; N of 2 or above.
        labels: [N], class numbers from 0.

    Raises:
        UserError: for fewer than two images, or a net whose convolutions cannot be watched.
    """
    if len(images) < 2:
        raise UserError(f"{len(images)} images: batch norm needs at least 2 for its statistics; take more")
    net = copy.deepcopy(net).train()
    with _Watch(net) as watch:
        loss = F.cross_entropy(net(images).float(), labels)
    if not watch.found:
        raise UserError("no convolution of the net was called; nets with frozen batch norm fold it into the weight")
    loss.backward()
    for conv, response in watch.found.items():
        if conv.weight.grad is not None:
            response.gradient = conv.weight.grad.float().norm().item()
    return list(watch.found.values())


def kernel3x3(responses: Sequence[Response]) -> list[Response]:
    """The 3x3 layers, which figure 7 shows."""
    return [response for response in responses if response.kernel == (3, 3)]


class _Watch(ExitStack):
    """Hooks on each convolution, and on whichever module takes its output, while the context is open.

    A norm is recognised by its kind and by the very tensor that it is given; no name of a layer is known here.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.found: dict[nn.Conv2d, Response] = {}
        self._names = {module: name for name, module in net.named_modules()}
        self._output: tuple[nn.Conv2d, Tensor] | None = None
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                self._hook(module, self._after_conv)
            elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
                self._hook(module, self._after_norm)

    def _hook(self, module: nn.Module, function: Any) -> None:
        self.callback(module.register_forward_hook(function).remove)

    def _after_conv(self, conv: nn.Conv2d, _: Any, output: Tensor) -> None:
        self.found[conv] = Response(self._names[conv], conv.kernel_size, _std(output))
        self._output = (conv, output)

    def _after_norm(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Measured at once: what follows may work in place.
        if self._output and self._output[1] is inputs[0]:
            self.found[self._output[0]].std = _std(output)
        self._output = None


def _std(values: Tensor) -> float:
    return values.detach().float().std(correction=0).item()
