"""What is published for a net: its weights by tag, with licence, recipe and accuracy. Reads no file and no network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from backbones.weights.published import timm_config, torchvision_tag

# torchvision states a licence only where it is not its own.
TORCHVISION_LICENCE = "BSD-3-Clause"


@dataclass(frozen=True)
class Published:
    """Published weights of one net.

    Attributes:
        library: whose they are, "torchvision" or "timm".
        tag: what `weights=` takes for them.
        default: whether `weights="imagenet"` means these.
        licence: of the weights, as their library states it, or None. Terms of the data may come on top.
        recipe: where the training is described, or None.
        top1, top5: accuracy on ImageNet's validation images as published, in percent; None where the library, such as
            timm, states none.
        size: side of the images that the accuracy was measured on, in pixels.
    """

    library: str
    tag: str
    default: bool
    licence: str | None
    recipe: str | None
    top1: float | None
    top5: float | None
    size: int


def published(source: tuple[str, str] | None) -> list[Published]:
    """All weights that are published for a net, those of `weights="imagenet"` first.

    Args:
        source: library and net, as `Backbone.source`; None is a net that nobody publishes weights for.
    """
    if source is None:
        return []
    library, arch = source
    found = _timm(arch) if library == "timm" else _torchvision(arch)
    return sorted(found, key=lambda weights: not weights.default)


def _torchvision(arch: str) -> list[Published]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(arch)
    default = torchvision_tag(arch, "imagenet") if weights.__members__ else ""
    # Iterating leaves the alias DEFAULT out.
    return [_of_torchvision(each.name, each, default) for each in weights]


def _of_torchvision(tag: str, weights: Any, default: str) -> Published:
    meta = weights.meta
    measured = meta.get("_metrics", {}).get("ImageNet-1K", {})
    return Published(
        library="torchvision",
        tag=tag,
        default=tag == default,
        licence=meta.get("license", TORCHVISION_LICENCE),
        recipe=meta.get("recipe"),
        top1=_figure(measured.get("acc@1")),
        top5=_figure(measured.get("acc@5")),
        size=weights.transforms().crop_size[0],
    )


def _timm(arch: str) -> list[Published]:
    import timm

    bare = arch.split(".")[0]
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{bare}.*")]
    named = arch.partition(".")[2] or getattr(timm_config(bare, "imagenet"), "tag", "")
    return [_of_timm(tag, timm_config(bare, tag), named) for tag in tags]


def _of_timm(tag: str, config: Any, default: str) -> Published:
    papers = config.paper_ids if isinstance(config.paper_ids, str) else next(iter(config.paper_ids or ()), None)
    return Published(
        library="timm",
        tag=tag,
        default=tag == default,
        licence=config.license,
        recipe=config.origin_url or papers,
        top1=None,
        top5=None,
        size=(config.test_input_size or config.input_size)[-1],
    )


def _figure(value: float | None) -> float | None:
    """A percentage, or None for one that was not measured."""
    return None if value is None or math.isnan(value) else float(value)
