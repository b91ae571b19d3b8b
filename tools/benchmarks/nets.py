"""Classification nets of three libraries under one interface: built, given the same weights, made to step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.errors import UserError
from tools.benchmarks.machine import device
from tools.benchmarks.rounds import Step
from tools.benchmarks.settings import OURS, Way
from tools.benchmarks.steps import placed, prediction, training
from tools.engine.cost import macs, parameters

CLASSES = 1000
USUAL_SIZE, CIFAR_SIZE = 224, 32
# Auxiliary classifiers belong to the training of 2014; no contestant computes them.
WITHOUT_AUX: dict[str, Any] = {"aux_logits": False, "init_weights": False}
TORCHVISION_OPTIONS = {"googlenet": WITHOUT_AUX, "inception_v3": WITHOUT_AUX}


@dataclass(frozen=True)
class Job:
    """A net to measure; see `benchmark_compare.Job`.

    Attributes:
        library: "ours", "torchvision" or "timm".
        net: as `backbones.names` has it; a library's own net carries its prefix.
        mode: "train" or "infer".
        size: side of the images in pixels.
        weights: a file that fits all libraries' layouts; None for each library's own random weights.
    """

    library: str
    net: str
    way: Way
    mode: str
    batch: int
    size: int
    weights: Path | None = None

    def prepare(self) -> Step:
        """Build net, input and optimizer; returns one training step or one prediction."""
        torch.manual_seed(0)
        model = placed(build(self.library, self.net, self.weights), self)
        form = torch.channels_last if self.way.channels_last else torch.contiguous_format
        images = torch.randn(self.batch, 3, self.size, self.size, device=device()).to(memory_format=form)
        if self.mode == "infer":
            return prediction(lambda: model(images), self)
        targets = torch.randint(CLASSES, (self.batch,), device=device())
        return training(model, lambda: nn.functional.cross_entropy(model(images), targets), self)


@dataclass(frozen=True)
class Facts:
    """A net's cost, and its input.

    Attributes:
        size: side of the images in pixels.
        macs: multiply-adds of one image.
    """

    size: int
    parameters: int
    macs: int


def peers(net: str) -> list[str]:
    """The libraries that have the same net: of a library's own net that library, of ours those that know its name."""
    import timm
    import torchvision

    if "/" in net:
        return [net.split("/", 1)[0]]
    known = {
        "torchvision": net in torchvision.models.list_models(module=torchvision.models),
        "timm": timm.is_model(net),
    }
    return [library for library, has in known.items() if has]


def facts(net: str, *, batch: int, size: int | None) -> Facts:
    """Cost of a net of ours at `size`, or at the size it was made for; nothing is computed.

    Raises:
        UserError: an unknown net, or a batch or size that it cannot take.
    """
    with torch.device("meta"):
        model = build(OURS, net)
        size = size or usual_size(net, model)
        try:
            model.train()(torch.zeros(batch, 3, size, size))
            cost = macs(model, size)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--size {size} --batch {batch}: {net} cannot take that ({reason})") from None
    return Facts(size, parameters(model), cost)


def usual_size(net: str, model: Any) -> int:
    """Side of the images that a net was made for: the libraries say it of theirs, the stride tells it of ours."""
    import timm
    import torchvision

    library, _, arch = net.rpartition("/")
    if library == "timm":
        config = timm.models.get_pretrained_cfg(arch)
        return config.input_size[-1] if config else USUAL_SIZE
    if library == "torchvision":
        return torchvision.models.get_model_weights(arch).DEFAULT.transforms().crop_size[0]
    return CIFAR_SIZE if model.backbone.feature_info[-1].stride <= 8 else USUAL_SIZE


def build(library: str, net: str, weights: Path | None = None) -> nn.Module:
    """A net of 1000 classes, with random weights or those of a file in torchvision's layout.

    Raises:
        UserError: an unknown net, or weights that do not fit all of it.
    """
    if library == OURS:
        import classification

        classifier = classification.build(net, CLASSES, weights=weights)
        missing = classifier.load_report.missing if classifier.load_report else ()
        if missing:
            raise UserError(f"{net}: {weights} has no {missing[0]}")
        return classifier
    model = _build_peer(library, net.rpartition("/")[2])
    if weights:
        try:
            model.load_state_dict(torch.load(weights, weights_only=True))
        except RuntimeError as error:
            raise UserError(f"{library}'s {net}: {weights} does not fit ({error})") from None
    return model


def share_weights(net: str, libraries: list[str], path: Path, *, size: int) -> float | None:
    """Save random weights of the first peer, where they fit the nets of all libraries.

    Returns:
        The largest difference between a logit of ours and a peer's, as a share of the largest logit: 0 where the
        libraries compute the same to the last bit. None, and no file, where layouts differ.
    """
    torch.manual_seed(0)
    torch.save(build(libraries[0], net).state_dict(), path)
    try:
        nets = [build(library, net, path) for library in (OURS, *libraries)]
    except UserError:
        path.unlink()
        return None
    image = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        ours, *theirs = (model.eval()(image) for model in nets)
    return max(((ours - other).abs().max() / other.abs().max()).item() for other in theirs)


def _build_peer(library: str, arch: str) -> nn.Module:
    if library == "timm":
        import timm

        return timm.create_model(arch, num_classes=CLASSES)
    import torchvision

    return torchvision.models.get_model(arch, weights=None, **TORCHVISION_OPTIONS.get(arch, {}))
