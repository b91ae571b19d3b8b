"""Facts that weights files of other programs do not state: channel order, normalisation, and where a block's stride is.

This module does not import torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from backbones.common.registry import unknown_name
from backbones.errors import UserError

SUFFIXES = (".pth", ".pt", ".bin", ".pkl", ".ckpt", ".tar", ".safetensors")  # of weights files
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, R, G, B in 0..1


@dataclass(frozen=True)
class WeightsSource:
    """How the program that made a weights file prepares images, and how it builds ResNets.

    Attributes:
        bgr: whether the first convolution takes B, G, R. Loading flips it, so that the backbone takes R, G, B.
        mean, std: normalisation of R, G, B in 0..1.
        stride_style: "v1.5" or "v1", see `backbones.build`.
        norm_eps: epsilon of batch norm.
    """

    bgr: bool = False
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    stride_style: str = "v1.5"
    norm_eps: float = 1e-5

    def describe(self, name: str) -> str:
        """Return what is known of a source, for the load report."""
        order = "B, G, R, whose first convolution was flipped to R, G, B" if self.bgr else "R, G, B"
        values = "mean and std of ImageNet" if self.mean == _MEAN and self.std == _STD else "its own mean and std"
        return f"from {name}: {order}, {values}, stride {self.stride_style}"


_PYTORCH = WeightsSource()
# MSRA's models, converted from Caffe: values of 0..255 minus the mean, not divided.
_CAFFE = WeightsSource(
    bgr=True, mean=(123.675 / 255, 116.28 / 255, 103.53 / 255), std=(1 / 255, 1 / 255, 1 / 255), stride_style="v1"
)
_UNSCALED = WeightsSource(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # 0..1 as it is

SOURCES: dict[str, WeightsSource] = {
    "torchvision": _PYTORCH,
    "detectron2": _CAFFE,  # its model zoo, and MSRA's R-50.pkl and R-101.pkl
    "caffe": _CAFFE,  # MMDetection's style caffe
    "simclr": _UNSCALED,
    **dict.fromkeys(
        ("moco", "byol", "simsiam", "swav", "barlow_twins", "vicreg", "dino", "lightly", "solo", "fastai"), _PYTORCH
    ),
    **dict.fromkeys(("mmpretrain", "mmdetection"), _PYTORCH),  # style pytorch
}


# Values of "__author__" in files for detectron2, in lower case; converters of other programs write theirs.
_AUTHORS = {"detectron2 model zoo": "detectron2", "caffe2": "detectron2", "moco": "moco", "torchvision": "torchvision"}


def check_author(file: str, author: str, given: str | None) -> None:
    """Compare the author that a file for detectron2 names with the given source of the weights.

    Args:
        file: for the error.
        author: the file's "__author__"; "" if it has none. Authors that are not known are not checked.
        given: the caller's `weights_from`; None is RGB with ImageNet's mean and std and stride v1.5.

    Raises:
        UserError: the author's models take other images, or have another stride style.
    """
    known = _AUTHORS.get(author.lower())
    if known is not None and SOURCES[known] != SOURCES[given or "torchvision"]:
        said = f"not weights_from={given!r}" if given else "which is not the default"
        raise UserError(
            f"{file}: names {author} as its author, whose models have other images or strides; use "
            f"weights_from={known!r}, {said}"
        )


def source_named(name: str | None) -> WeightsSource | None:
    """Return a known source of weights; None for None.

    Raises:
        UserError: no source has this name.
    """
    if name is not None and name not in SOURCES:
        raise unknown_name("weights_from", name, list(SOURCES), otherwise=f"known are {', '.join(SOURCES)}")
    return None if name is None else SOURCES[name]


def split_part(weights: str | os.PathLike[str]) -> tuple[str, str]:
    """Split "FILE::PART" into the file and the part of it to load; the part is "" for a file alone."""
    file, _, part = os.fspath(weights).partition("::")
    return file, part.strip(".")


def is_path(weights: str | os.PathLike[str]) -> bool:
    """Return whether weights are written as a path, which may not exist, and not as a word such as "imagenet"."""
    file, part = split_part(weights)
    return not isinstance(weights, str) or bool(part) or os.sep in file or file.endswith(SUFFIXES)


def is_weights_file(weights: str | os.PathLike[str] | None) -> bool:
    """Return whether weights are an existing file, or a part of one."""
    return weights is not None and os.path.isfile(split_part(weights)[0])


def chosen_style(given: str | None, source: str | None, recorded: str | None) -> str | None:
    """Return the stride style of a backbone: the caller's, that of the weights' source, or that of our file's header.

    Args:
        given: the caller's `stride_style`; None if the caller named none.
        source: the name of the weights' source.
        recorded: the style that the header of our own weights file records.

    Raises:
        UserError: two of them differ.
    """
    known = source_named(source)
    own = recorded or (known.stride_style if known else None)
    if given is not None and own is not None and given != own:
        where = f"weights_from={source!r}" if known and not recorded else "the weights file"
        raise UserError(
            f"stride_style={given!r}: {where} has stride style {own}, which computes other features; leave "
            "stride_style out"
        )
    return given or own
