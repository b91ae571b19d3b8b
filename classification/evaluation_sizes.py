"""How weights were measured: the sizes and the resampling that their published accuracy belongs to."""

from __future__ import annotations

from typing import NamedTuple

from backbones.errors import UserError
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from backbones.weights.published import timm_config


class Published(NamedTuple):
    """How published weights were measured: side of the crop, shorter side before it, in pixels, and the resampling."""

    crop: int
    resize: int
    interpolation: str


def published_sizes(name: str, weights: str) -> Published | None:
    """How published weights, or those in a file of ours, were measured; None for all others.

    Args:
        name: of the net, as for `backbones.build`.
        weights: "imagenet", a tag or a file.
    """
    ours = read_meta(resolve(weights)).get("input", {})
    if {"crop_size", "resize_size"} <= set(ours):
        return Published(ours["crop_size"], ours["resize_size"], ours.get("interpolation", "bilinear"))
    if name.startswith("timm/"):
        return _timm_sizes(name.removeprefix("timm/"), weights)
    return _torchvision_sizes(name.removeprefix("torchvision/"), weights)


def choose_sizes(name: str, weights: str, crop: int | None, resize: int | None, interpolation: str | None) -> Published:
    """Sizes and resampling for evaluation: as given, else those that the weights were measured with, else 224 of 256.

    Raises:
        UserError: where the crop is larger than the image that it is taken from.
    """
    known = published_sizes(name, weights)
    size = crop or (known.crop if known else 224)
    side = resize or (known.resize if known and known.crop == size else round(size * 8 / 7))
    if side < size:
        raise UserError(f"--resize-size {side}: must not be below the crop of {size}; name --crop-size too")
    bicubic = known is not None and known.interpolation == "bicubic"
    return Published(size, side, interpolation or ("bicubic" if bicubic else "bilinear"))


def _torchvision_sizes(arch: str, tag: str) -> Published | None:
    from torchvision.models import get_model_weights, list_models

    from backbones.weights.published import torchvision_tag

    if arch not in list_models():
        return None
    try:
        measured = get_model_weights(arch)[torchvision_tag(arch, tag)].transforms()
    except UserError:
        return None
    # The presets' own defaults, such as a shorter side of 256, stand in the object alone.
    return Published(measured.crop_size[0], measured.resize_size[0], measured.interpolation.value)


def _timm_sizes(arch: str, tag: str) -> Published | None:
    config = timm_config(arch, tag)
    if config is None:
        return None
    size = (config.test_input_size or config.input_size)[-1]
    return Published(size, int(size / (config.test_crop_pct or config.crop_pct)), config.interpolation)
