"""Look into a loss that was not finite: the batch once more, in fp32 and as the run computed it.

    python tools/replay.py RUN/nonfinite-step-120-rank-0.safetensors
    python tools/replay.py RUN/nonfinite-step-120-rank-0.safetensors --weights checkpoint  # the last ones saved

A training writes the file when it stops with such a loss: the images and targets of that step, the random state, and
the weights as they were then, which are newer than the last checkpoint's. For each precision this prints the loss
terms, the first module whose output is not finite, and the first gradient that is none.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class ReplayOptions:
    """What to replay.

    Args:
        file: nonfinite-step-N-rank-R.safetensors of a run folder.
        weights: failure takes those that gave the loss, checkpoint the last saved ones of the run, some steps older.
    """

    file: str = field(metadata=POSITIONAL)
    weights: Literal["failure", "checkpoint"] = "failure"


@dataclass
class Options:
    """The script's option groups."""

    replay: ReplayOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Read, rebuild, compute, print."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv).replay

    import torch

    path = Path(options.file)
    kept = read(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = rebuild(kept, _checkpoint(path) if options.weights == "checkpoint" else None)
    model = model.to(device).to(memory_format=torch.channels_last)
    show_input(kept, model, options.weights)
    runs = {name: trace(model, kept, getattr(torch, name)) for name in dict.fromkeys(("float32", kept["precision"]))}
    for name, found in runs.items():
        found.show(name)
    if runs["float32"].finite and not runs[kept["precision"]].finite:
        print(f"float32 stays finite: {kept['precision']} is what fails; see --precision")


def read(path: Path) -> dict[str, Any]:
    """What a training kept of the step.

    Raises:
        UserError: where the file is none of those.
    """
    from tools.engine import checkpoint

    kept = checkpoint.load(path)
    if not isinstance(kept, dict) or not kept.keys() >= {"images", "targets", "random", "parameters", "meta"}:
        raise UserError(f"{path}: not the batch of a loss that was not finite; name a nonfinite-*.safetensors")
    return kept


def rebuild(kept: dict[str, Any], state: dict[str, torch.Tensor] | None) -> nn.Module:
    """The net in training mode, with the weights of the failure, or those of a checkpoint's `state`."""
    from backbones.norm import freeze_batch_norm

    model = _build(kept["meta"])
    names = {name for name, _ in model.named_modules()}
    frozen = [
        module
        for name, module in model.named_modules()
        if hasattr(module, "num_batches_tracked") and f"{name}.num_batches_tracked" not in kept["buffers"]
    ]
    freeze_batch_norm(model, within=frozen)
    for name, value in kept["buffers"].items():
        place, _, last = name.rpartition(".")
        if place in names:  # also what no state dict holds, such as a loss's class weights
            setattr(model.get_submodule(place), last, value)
    try:
        model.load_state_dict(state if state is not None else {**model.state_dict(), **kept["parameters"]})
    except RuntimeError:
        raise UserError("the kept weights do not fit the net; replay them with the version that trained it") from None
    return model.train()


def show_input(kept: dict[str, Any], model: nn.Module, weights: str) -> None:
    """Print the step, what the run saw of it, and whether images and weights were finite."""
    import torch

    from tools.engine.nonfinite import image_ids

    print(f"step {kept['step']} of process {kept['rank']}, lr {kept['lr']:.4g}, images {image_ids(kept['targets'])}")
    print(f"the run saw   {_terms(kept['losses'])}")
    images = kept["images"] if isinstance(kept["images"], list) else [kept["images"]]
    print(f"images        {'finite' if all(torch.isfinite(image).all() for image in images) else 'NOT FINITE'}")
    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    told = f"{len(broken)} of {len(list(model.parameters()))} NOT FINITE, first {broken[0]}" if broken else "finite"
    print(f"weights       {told}{'' if weights == 'failure' else ' (of the last checkpoint)'}")
    if broken and weights == "failure":
        print("              they broke at an earlier step: see --weights checkpoint")


@dataclass
class Traced:
    """One replay.

    Attributes:
        losses: by term.
        module: the first one whose output is not finite.
        gradient: what autograd says of the first gradient that is not.
    """

    losses: dict[str, float]
    module: str | None
    gradient: str | None

    @property
    def finite(self) -> bool:
        """Whether nothing is wrong."""
        return all(math.isfinite(loss) for loss in self.losses.values()) and not self.module and not self.gradient

    def show(self, precision: str) -> None:
        """Print it."""
        print(f"{precision:<14}{_terms(self.losses)}")
        print(f"              first output that is not finite: {self.module or 'none'}")
        if self.gradient:
            print(f"              first gradient that is not: {self.gradient}")


def trace(model: nn.Module, kept: dict[str, Any], dtype: torch.dtype) -> Traced:
    """The forward and backward pass in one precision, from the kept random state."""
    import torch

    from tools.engine.evaluation import to_device
    from tools.engine.state import Precision, set_random_state

    device = next(model.parameters()).device
    set_random_state(kept["random"], device)
    images, targets = to_device((kept["images"], kept["targets"]), device)
    broken: list[str] = []
    handles = [module.register_forward_hook(_watch(name, broken)) for name, module in model.named_modules()]
    with warnings.catch_warnings(), torch.autograd.detect_anomaly(check_nan=True):
        warnings.simplefilter("ignore")  # the error says enough
        with Precision(device, dtype).autocast():
            losses = model(images, targets)
        gradient = _first_gradient(sum(losses.values()))
    for handle in handles:
        handle.remove()
    return Traced({name: loss.item() for name, loss in losses.items()}, broken[0] if broken else None, gradient)


def _watch(name: str, broken: list[str]) -> Callable[..., None]:
    import torch

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if not broken and not all(torch.isfinite(value).all() for value in _tensors(output)):
            broken.append(f"{name or 'the whole net'} ({type(module).__name__})")

    return look


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Those inside lists, tuples, dicts and objects such as torchvision's image lists."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
        return
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in (value.tensors,) if hasattr(value, "tensors") else inside:
        yield from _tensors(item)


def _first_gradient(total: Any) -> str | None:
    try:
        total.backward()
    except RuntimeError as error:  # how anomaly detection speaks
        return str(error).splitlines()[0]
    return None


def _terms(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {loss:.6g}" for name, loss in losses.items())


def _checkpoint(path: Path) -> dict[str, torch.Tensor]:
    from tools.engine import checkpoint
    from tools.engine.run_folder import LAST

    return checkpoint.load(checkpoint.newest_whole(path.parent / LAST))["training"]["model"]


def _build(meta: dict[str, Any]) -> nn.Module:
    if meta["task"] == "detection":
        return _detector(meta)
    if meta["task"] == "classification":
        import classification.trained

        return classification.trained.rebuild(meta, None)
    import segmentation.trained

    return segmentation.trained.rebuild(meta, None)


def _detector(meta: dict[str, Any]) -> nn.Module:
    import detection
    from detection.weights import set_norm_eps

    kept = {name: value for name, value in meta["model"].items() if name not in ("backbone", "weights", "freeze")}
    net = detection.build(meta["model"]["backbone"], len(meta["category_ids"]), **{**kept, "norm": _norm(kept)})
    net.transform.image_mean, net.transform.image_std = meta["input"]["mean"], meta["input"]["std"]
    if meta["norm_eps"] is not None:
        set_norm_eps(net, meta["norm_eps"])
    return net


def _norm(model: dict[str, Any]) -> str:
    """Live for now where it was frozen: that wants weights, which come later."""
    return "group" if model["norm"] == "group" else "batch"


if __name__ == "__main__":
    run(main)
