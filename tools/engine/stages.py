"""The stages of the backbone inside a net: at what share of the learning rate they train, and from when on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from backbones.base import Backbone, LastStage


class Thawing:
    """Frozen stages of a net's backbone that train from later epochs on, the last one first.

    Which ones train is a function of the epochs done alone, so that a resumed run needs to know no more.

    Args:
        model: a net whose backbone's first stages are frozen.
        epochs: numbers of epochs after each of which one more stage thaws, in rising order.
    """

    def __init__(self, model: nn.Module, epochs: Sequence[int]) -> None:
        self.epochs = epochs
        self.backbone = _backbone(model)
        self.frozen = self.backbone.frozen_stages if self.backbone else 0

    def to(self, epoch: int) -> bool:
        """Freeze what is frozen once `epoch` epochs are done; whether that is another number of stages than before."""
        due = self._due(epoch)
        if self.backbone is None or due == self.backbone.frozen_stages:
            return False
        self.backbone.freeze_stages(due)
        return True

    def resting(self, epoch: int) -> set[nn.Parameter]:
        """The parameters that are frozen once `epoch` epochs are done, and thaw later."""
        stages = self.backbone.stages() if self.backbone and self.epochs else []
        return _parameters([m for stage in stages[self.frozen - len(self.epochs) : self._due(epoch)] for m in stage])

    def _due(self, epoch: int) -> int:
        return self.frozen - sum(at <= epoch for at in self.epochs)


def depths(model: nn.Module) -> dict[nn.Parameter, int]:
    """How many stages, its own included, lie between each parameter of the backbone's and the heads: 1 in the last.

    Parameters outside of stages are absent: they are the heads'.
    """
    stages = _stages(model)
    return {p: len(stages) - place for place, stage in enumerate(stages) for p in _parameters(stage)}


def describe_stages(model: nn.Module, *, lr: float, layer_decay: float, thaw: Sequence[int]) -> str:
    """The learning rate of heads and stages, and which are frozen till when; empty where all train alike."""
    backbone = _backbone(model)
    frozen = backbone.frozen_stages if backbone else 0
    if not frozen and layer_decay == 1:
        return ""
    stages, thaw = _stages(model), thaw if frozen else ()  # a run that is only measured freezes nothing
    names = ["stem", *(f"stage {place}" for place in range(1, len(stages)))]
    rates = [f"{lr * layer_decay ** (len(stages) - place):.4g}" for place in range(len(stages))]
    always = frozen - len(thaw)
    rates[:always] = ["frozen"] * always
    for place, epoch in enumerate(reversed(thaw), start=always):
        rates[place] += f" after epoch {epoch}"
    words = [f"{name} {rate}" for name, rate in zip(names, rates, strict=True)]
    return ", ".join([f"heads {lr:.4g}", *reversed(words)])


def _stages(model: nn.Module) -> list[list[nn.Module]]:
    """The stem, then each stage of the backbone; the last one may serve a C4 detector's RoI head."""
    backbone = _backbone(model)
    behind = [[module] for module in model.modules() if isinstance(module, LastStage)]
    return [*(backbone.stages() if backbone else ()), *behind]


def _backbone(model: nn.Module) -> Backbone | None:
    return next((module for module in model.modules() if isinstance(module, Backbone)), None)


def _parameters(modules: Sequence[nn.Module]) -> set[nn.Parameter]:
    return {parameter for module in modules for parameter in module.parameters()}
