"""Repeats a training step whose loss or gradient was not finite, to find the operation that caused it."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.norm import freeze_batch_norm
from tools.engine import checkpoint
from tools.engine.batches import image_ids, to_device
from tools.engine.random_states import set_random_state
from tools.engine.run_folder import LAST
from tools.engine.state import Precision

Kept: TypeAlias = Mapping[str, Any]  # the entries that `nonfinite.evidence` names, as they were read from the file


def read(path: Path) -> Kept:
    """Read nonfinite-*.safetensors, which a training wrote at a step whose loss or gradient was not finite.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    kept = checkpoint.load(path)
    if not isinstance(kept, dict) or not kept.keys() >= {"images", "targets", "random", "parameters", "meta"}:
        raise UserError(
            f"{path}: is not a record of a non-finite loss; name a nonfinite-*.safetensors file that a "
            "training run wrote"
        )
    return kept


def restore(model: nn.Module, kept: Kept, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Restore a model as it was at the recorded step: frozen norm layers, buffers, weights. It is in training mode.

    Args:
        model: built from the kept `meta`, with random weights and live batch norm.
        state: weights to use instead of the kept ones, such as those of the last checkpoint.

    Raises:
        UserError: the weights do not fit the model.
    """
    # Freeze the batch norm that was frozen in the run: frozen layers do not count their batches.
    frozen = [
        module
        for name, module in model.named_modules()
        if hasattr(module, "num_batches_tracked") and f"{name}.num_batches_tracked" not in kept["buffers"]
    ]
    freeze_batch_norm(model, within=frozen)
    # Copy the buffers, also those that no state dict holds, such as the class weights of a loss.
    for name, buffer in model.named_buffers():
        if name in kept["buffers"]:
            buffer.copy_(kept["buffers"][name])
    try:
        model.load_state_dict(state if state is not None else {**model.state_dict(), **kept["parameters"]})
    except RuntimeError:
        raise UserError(
            "the recorded weights do not fit the model, probably because another version of the project "
            "wrote the file; use the version that wrote the file"
        ) from None
    return model.train()


def last_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Return the weights of the last checkpoint in the run folder of a recorded step."""
    return checkpoint.load(checkpoint.newest_whole(path.parent / LAST).path)["training"]["model"]


def describe_input(kept: Kept, model: nn.Module, weights: str) -> list[str]:
    """Describe the recorded step, its losses, and whether images and weights are finite, as lines of text.

    Args:
        weights: "failure" or "checkpoint", the source of the model's weights.
    """
    lines = [
        f"step {kept['step']} of process {kept['rank']}, lr {kept['lr']:.4g}, images {image_ids(kept['targets'])}",
        f"the run saw   {_terms(kept['losses'])}",
    ]
    images = kept["images"] if isinstance(kept["images"], list) else [kept["images"]]
    lines.append(f"images        {'finite' if all(torch.isfinite(image).all() for image in images) else 'NOT FINITE'}")
    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    count = len(list(model.parameters()))
    text = f"{len(broken)} of {count} NOT FINITE, first {broken[0]}" if broken else "finite"
    lines.append(f"weights       {text}{'' if weights == 'failure' else ' (of the last checkpoint)'}")
    if broken and weights == "failure":
        lines.append("              an earlier step broke them: see --weights checkpoint")
    return lines


@dataclass
class Traced:
    """Result of repeating a training step once in one precision.

    Attributes:
        losses: value of each loss term.
        module: the first module whose output is not finite, or None.
        gradient: autograd's message on the first gradient that is not finite, or None.
    """

    losses: dict[str, float]
    module: str | None
    gradient: str | None

    @property
    def finite(self) -> bool:
        """Return whether all losses, outputs and gradients are finite."""
        return all(math.isfinite(loss) for loss in self.losses.values()) and not self.module and not self.gradient

    def lines(self, precision: str) -> list[str]:
        """Describe this result as lines of text."""
        lines = [
            f"{precision:<14}{_terms(self.losses)}",
            f"              first output that is not finite: {self.module or 'none'}",
        ]
        return [*lines, f"              first gradient that is not finite: {self.gradient}"] if self.gradient else lines


def trace(model: nn.Module, kept: Kept, dtype: torch.dtype) -> Traced:
    """Repeat the forward and backward pass of a recorded step in one precision, with the recorded random state."""
    device = next(model.parameters()).device
    set_random_state(kept["random"], device)
    images, targets = to_device((kept["images"], kept["targets"]), device)
    # Watch the output of every module.
    broken: list[str] = []
    handles = [module.register_forward_hook(_watch(name, broken)) for name, module in model.named_modules()]
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("ignore")  # the error of the backward pass says enough
        with Precision(device, dtype).autocast():
            losses: dict[str, Tensor] = model(images, targets)
        gradient = _first_gradient(losses)
    for handle in handles:
        handle.remove()
    return Traced({name: loss.item() for name, loss in losses.items()}, broken[0] if broken else None, gradient)


def _watch(name: str, broken: list[str]) -> Callable[[nn.Module, object, object], None]:
    """Return a forward hook that records a module's name if its output is the first that is not finite."""

    def note(module: nn.Module, _: object, output: object) -> None:
        if not broken and not all(torch.isfinite(value).all() for value in _tensors(output)):
            broken.append(f"{name or 'the whole model'} ({type(module).__name__})")

    return note


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples, dicts and objects such as torchvision's ImageList."""
    if isinstance(value, Tensor):
        yield value
        return
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in (value.tensors,) if hasattr(value, "tensors") else inside:
        yield from _tensors(item)


def _first_gradient(losses: Mapping[str, Tensor]) -> str | None:
    """Run the backward pass; return autograd's message if a gradient is not finite."""
    try:
        functools.reduce(torch.add, losses.values()).backward()
    except RuntimeError as error:  # raised by anomaly detection
        return str(error).splitlines()[0]
    return None


def _terms(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {loss:.6g}" for name, loss in losses.items())
