"""Lists published weights with tag, licence, recipe and accuracy, without reading weights or using the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torchvision
from torchvision.models import WeightsEnum, get_model_weights

from backbones.weights.published import timm_config, torchvision_tag
from backbones.weights.timm_accuracies import MEASURED, timm_accuracy

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

# torchvision states a licence only if it is not its own.
TORCHVISION_LICENCE = "BSD-3-Clause"


@dataclass(frozen=True)
class Published:
    """Published weights of one model.

    Attributes:
        library: "torchvision" or "timm".
        tag: the value of `weights=` that loads them.
        default: whether `weights="imagenet"` loads them.
        licence: licence of the weights as the library states it, or None. The training data may have further terms.
        recipe: address of a description of the training, or None.
        top1, top5: published accuracy on ImageNet's validation images in percent; None if the library states none.
        size: side of the images that the accuracy was measured on, in pixels: the library's size for tests.
        measured: where the accuracy is published, with its date or version; None without an accuracy.
    """

    library: str
    tag: str
    default: bool
    licence: str | None
    recipe: str | None
    top1: float | None
    top5: float | None
    size: int
    measured: str | None


def published(source: tuple[str, str] | None) -> list[Published]:
    """Return all published weights of a model. The default weights come first.

    Args:
        source: library and model, as `Backbone.source`. None is a model without published weights.
    """
    if source is None:
        return []
    library, arch = source
    found = _timm(arch) if library == "timm" else _torchvision(arch)
    return sorted(found, key=lambda weights: not weights.default)


def _torchvision(arch: str) -> list[Published]:
    weights = get_model_weights(arch)
    default = torchvision_tag(arch, "imagenet") if weights.__members__ else ""
    # Iterating over the enumeration leaves out its alias DEFAULT.
    return [_of_torchvision(each.name, each, default) for each in weights]


def _of_torchvision(tag: str, weights: WeightsEnum, default: str) -> Published:
    meta = weights.meta
    metrics = meta.get("_metrics", {}).get("ImageNet-1K", {})
    top1 = _percentage(metrics.get("acc@1"))
    return Published(
        library="torchvision",
        tag=tag,
        default=tag == default,
        licence=meta.get("license", TORCHVISION_LICENCE),
        recipe=meta.get("recipe"),
        top1=top1,
        top5=_percentage(metrics.get("acc@5")),
        size=weights.transforms().crop_size[0],
        measured=None if top1 is None else f"torchvision {torchvision.__version__}",
    )


def _timm(arch: str) -> list[Published]:
    import timm

    bare = arch.split(".")[0]
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{bare}.*")]
    default = arch.partition(".")[2] or getattr(timm_config(bare, "imagenet"), "tag", "")
    return [_of_timm(bare, tag, config, default) for tag in tags if (config := timm_config(bare, tag))]


def _of_timm(arch: str, tag: str, config: PretrainedCfg, default: str) -> Published:
    size = (config.test_input_size or config.input_size)[-1]
    top1, top5 = timm_accuracy(f"{arch}.{tag}" if tag else arch, size) or (None, None)
    papers = config.paper_ids if isinstance(config.paper_ids, str) else next(iter(config.paper_ids or ()), None)
    return Published(
        library="timm",
        tag=tag,
        default=tag == default,
        licence=config.license,
        recipe=config.origin_url or papers,
        top1=top1,
        top5=top5,
        size=size,
        measured=None if top1 is None else MEASURED,
    )


def _percentage(value: float | None) -> float | None:
    """Return an accuracy in percent as a number, or None if it was not published."""
    return None if value is None or math.isnan(value) else float(value)
