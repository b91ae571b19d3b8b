"""The stages of a model's backbone: when each begins to train, and its learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from backbones.base import Backbone, LastStage


class Thawing:
    """Schedule by which frozen stages of a backbone begin to train, the last stage first.

    The number of finished epochs alone determines which stages train, so a resumed run needs no further state.

    Args:
        model: a model whose backbone's first stages are frozen.
        epochs: numbers of epochs, in rising order, after each of which one more stage trains.
    """

    def __init__(self, model: nn.Module, epochs: Sequence[int]) -> None:
        self.epochs = epochs
        self.backbone = _backbone(model)
        self.frozen = self.backbone.frozen_stages if self.backbone else 0

    def set_epoch(self, epoch: int) -> bool:
        """Freeze or thaw the stages as they must be after `epoch` epochs; return whether anything changed."""
        count = self._frozen_after(epoch)
        if self.backbone is None or count == self.backbone.frozen_stages:
            return False
        self.backbone.freeze_stages(count)
        return True

    def still_frozen(self, epoch: int) -> set[nn.Parameter]:
        """Return the parameters that are frozen after `epoch` epochs and will be thawed later."""
        stages = self.backbone.stages() if self.backbone and self.epochs else []
        first = self.frozen - len(self.epochs)  # stages before this one never thaw
        return _parameters([module for stage in stages[first : self._frozen_after(epoch)] for module in stage])

    def _frozen_after(self, epoch: int) -> int:
        return self.frozen - sum(at <= epoch for at in self.epochs)


def stage_depths(model: nn.Module) -> dict[nn.Parameter, int]:
    """Return the depth of each backbone parameter's stage, counted from the heads: 1 for the last stage, and so on.

    Parameters outside the stages, which are those of the heads, are absent.
    """
    stages = _stages(model)
    return {p: len(stages) - index for index, stage in enumerate(stages) for p in _parameters(stage)}


def describe_stages(model: nn.Module, *, lr: float, layer_decay: float, thaw: Sequence[int]) -> str:
    """Describe the learning rates of heads and stages, and when each stage trains; "" if all train alike."""
    backbone = _backbone(model)
    frozen = backbone.frozen_stages if backbone else 0
    if not frozen and layer_decay == 1:
        return ""
    stages, thaw = _stages(model), thaw if frozen else ()  # with --eval-only nothing is frozen
    names = ["stem", *(f"stage {index}" for index in range(1, len(stages)))]
    rates = [f"{lr * layer_decay ** (len(stages) - index):.4g}" for index in range(len(stages))]
    # Mark the stages that never train, then those that thaw, from the deepest one up.
    always = frozen - len(thaw)
    rates[:always] = ["frozen"] * always
    for index, epoch in enumerate(reversed(thaw), start=always):
        rates[index] += f" after epoch {epoch}"
    described = [f"{name} {rate}" for name, rate in zip(names, rates, strict=True)]
    return ", ".join([f"heads {lr:.4g}", *reversed(described)])


def _stages(model: nn.Module) -> list[list[nn.Module]]:
    """Return the modules of the stem and of each stage of the backbone.

    In a C4 detector the last stage belongs to the RoI head.
    """
    backbone = _backbone(model)
    in_head = [[module] for module in model.modules() if isinstance(module, LastStage)]
    return [*(backbone.stages() if backbone else ()), *in_head]


def _backbone(model: nn.Module) -> Backbone | None:
    return next((module for module in model.modules() if isinstance(module, Backbone)), None)


def _parameters(modules: Sequence[nn.Module]) -> set[nn.Parameter]:
    return {parameter for module in modules for parameter in module.parameters()}
