"""Sizes of images in evaluation. By default they are those with which the published accuracy was measured."""

from __future__ import annotations

from typing import NamedTuple

from torchvision.models import get_model_weights, list_models

from backbones.errors import UserError
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from backbones.weights.published import timm_config, torchvision_tag


class EvaluationSizes(NamedTuple):
    """Sizes to which images are resized and cropped in evaluation.

    Attributes:
        crop: side of the square crop in pixels.
        resize: length of the shorter side before the crop in pixels.
        interpolation: name of the resampling, such as "bilinear".
    """

    crop: int
    resize: int
    interpolation: str


def published_sizes(name: str, weights: str) -> EvaluationSizes | None:
    """Return the image sizes with which the accuracy of published weights was measured, or None if they are not known.

    Args:
        name: the backbone's name, as for `backbones.build`.
        weights: "imagenet", a tag or a file of ours.
    """
    ours = read_meta(resolve(weights)).get("input", {})
    if {"crop_size", "resize_size"} <= set(ours):
        return EvaluationSizes(ours["crop_size"], ours["resize_size"], ours.get("interpolation", "bilinear"))
    if name.startswith("timm/"):
        return _timm_sizes(name.removeprefix("timm/"), weights)
    return _torchvision_sizes(name.removeprefix("torchvision/"), weights)


def choose_sizes(
    name: str, weights: str, crop: int | None, resize: int | None, interpolation: str | None
) -> EvaluationSizes:
    """Return the evaluation sizes: the given ones, or those of the weights, or a crop of 224 after resizing to 256.

    Args:
        name: the backbone's name, as for `backbones.build`.
        weights: "imagenet", a tag or a file of ours.
        crop, resize, interpolation: as in `EvaluationSizes`; None to choose.

    Raises:
        UserError: the crop is larger than the resized image.
    """
    known = published_sizes(name, weights)
    size = crop or (known.crop if known else 224)
    side = resize or (known.resize if known and known.crop == size else round(size * 8 / 7))
    if side < size:
        raise UserError(
            f"--resize-size {side}: must not be smaller than the crop size {size}; raise --resize-size or "
            "lower --crop-size"
        )
    bicubic = known is not None and known.interpolation == "bicubic"
    return EvaluationSizes(size, side, interpolation or ("bicubic" if bicubic else "bilinear"))


def _torchvision_sizes(arch: str, tag: str) -> EvaluationSizes | None:
    if arch not in list_models():
        return None
    try:
        measured = get_model_weights(arch)[torchvision_tag(arch, tag)].transforms()
    except UserError:
        return None
    # Read the built preset: its arguments leave out defaults, such as a shorter side of 256.
    return EvaluationSizes(measured.crop_size[0], measured.resize_size[0], measured.interpolation.value)


def _timm_sizes(arch: str, tag: str) -> EvaluationSizes | None:
    config = timm_config(arch, tag)
    if config is None:
        return None
    size = (config.test_input_size or config.input_size)[-1]
    return EvaluationSizes(size, int(size / (config.test_crop_pct or config.crop_pct)), config.interpolation)
