"""Measures the responses of a model's convolutions to a batch of images, and the gradients of their weights.

A response is the output of a convolution after its batch norm, before the nonlinearity or the addition (section 4.2 and
figure 7 of the ResNet paper).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.errors import UserError, counted


@dataclass
class Response:
    """Response of one convolution: statistics of its output and of its weight's gradient.

    Attributes:
        layer: name of the convolution in the model.
        kernel: sides of its kernel in pixels, such as (3, 3).
        std: standard deviation of its normalised output over images, channels and positions.
        gradient: Euclidean norm of the gradient of the loss with respect to its weight.
    """

    layer: str
    kernel: tuple[int, ...]
    std: float
    gradient: float = float("nan")


def measure(model: nn.Module, images: Tensor, labels: Tensor) -> list[Response]:
    """Run one training step of a classification model, and return its responses and gradients. `model` is unchanged.

    Batch norm uses the statistics of the batch, because running statistics mean nothing before training.

    Args:
        images: `[N, C, H, W]` as the model takes them; N is 2 or more.
        labels: class numbers from 0 `[N]`.

    Returns:
        The responses in the order of computation.

    Raises:
        UserError: for fewer than two images, or a model whose convolutions are not called as modules.
    """
    if len(images) < 2:
        raise UserError(
            f"{counted(len(images), 'image')}: batch norm needs at least 2 images for its statistics; raise --images"
        )
    model = copy.deepcopy(model).train()
    with _ResponseHooks(model) as hooks:
        loss = F.cross_entropy(model(images).float(), labels)
    if not hooks.found:
        raise UserError(
            "no responses were recorded, because the frozen batch norm of this model is folded into its "
            "convolutions; choose a model with live batch norm"
        )
    loss.backward()
    for conv, response in hooks.found.items():
        if conv.weight.grad is not None:
            response.gradient = conv.weight.grad.float().norm().item()
    return list(hooks.found.values())


def kernel3x3(responses: Sequence[Response]) -> list[Response]:
    """Return the responses of the 3x3 convolutions, which figure 7 shows."""
    return [response for response in responses if response.kernel == (3, 3)]


class _ResponseHooks(ExitStack):
    """Context manager that records the response of each convolution of a model.

    A convolution's norm is the norm layer whose input is the tensor that the convolution returned. Layers are matched
    this way because their names differ between models.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: dict[nn.Conv2d, Response] = {}
        self._names = {module: name for name, module in model.named_modules()}
        self._last: tuple[nn.Conv2d, Tensor] | None = None
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                self._hook(module, self._after_conv)
            elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
                self._hook(module, self._after_norm)

    def _hook(self, module: nn.Module, function: Callable[..., None]) -> None:
        self.callback(module.register_forward_hook(function).remove)

    def _after_conv(self, conv: nn.Conv2d, _: object, output: Tensor) -> None:
        self.found[conv] = Response(self._names[conv], conv.kernel_size, _std(output))
        self._last = (conv, output)

    def _after_norm(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Measure at once: the next layer may change the output in place.
        if self._last and self._last[1] is inputs[0]:
            self.found[self._last[0]].std = _std(output)
        self._last = None


def _std(values: Tensor) -> float:
    return values.detach().float().std(correction=0).item()
