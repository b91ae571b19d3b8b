"""What the libraries that publish weights say of them."""

from __future__ import annotations

from backbones.errors import UserError


def published_sizes(name: str, weights: str) -> tuple[int, int] | None:
    """Crop and shorter side before it that published weights were measured with, in pixels; None for other weights.

    Args:
        name: of the net, as for `backbones.build`.
        weights: "imagenet" or a tag; anything else is no published weights' name.
    """
    if name.startswith("timm/"):
        return _timm_sizes(name.removeprefix("timm/"), weights)
    return _torchvision_sizes(name.removeprefix("torchvision/"), weights)


def _torchvision_sizes(arch: str, tag: str) -> tuple[int, int] | None:
    from torchvision.models import get_model_weights, list_models

    from backbones.download import torchvision_tag

    if arch not in list_models():
        return None
    try:
        measured = get_model_weights(arch)[torchvision_tag(arch, tag)].transforms.keywords
    except UserError:
        return None
    return measured["crop_size"], measured.get("resize_size", 256)


def _timm_sizes(arch: str, tag: str) -> tuple[int, int] | None:
    import timm

    try:
        config = timm.models.get_pretrained_cfg(arch if tag == "imagenet" else f"{arch.split('.')[0]}.{tag}")
    except RuntimeError:
        return None
    if config is None:
        return None
    size = (config.test_input_size or config.input_size)[-1]
    return size, int(size / (config.test_crop_pct or config.crop_pct))
