"""Names of Caffe2's ResNets, as in MSRA's R-50.pkl, from which detectron2's models start."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_BRANCHES = {"1": "downsample.0", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_NORMS = {"1": "downsample.1", "2a": "bn1", "2b": "bn2", "2c": "bn3"}
_ENDS = {"w": "weight", "b": "bias", "bn_s": "weight", "bn_b": "bias"}
_BLOCK = re.compile(r"res([2-5])_(\d+)_branch(1|2[abc])_(w|b|bn_s|bn_b)")
_STEM = re.compile(r"(?:res_)?conv1_(w|bn_s|bn_b)")
EPS = 1e-5  # of frozen batch norm, with which a variance of 1 - EPS divides by exactly 1


def has_caffe2_names(state: Mapping[str, Tensor]) -> bool:
    """Return whether the entries are those of a ResNet with Caffe2's names."""
    return "conv1_w" in state and any(_BLOCK.fullmatch(key) for key in state)


def from_caffe2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries with torchvision's names. Other entries keep their names; those of an optimizer are dropped.

    Caffe2's models have the statistics of batch norm inside its scale and shift. Mean 0 and variance 1 are added, which
    change nothing.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("_momentum"):  # in Detectron's files of whole detectors
            continue
        name = _torchvision_name(key)
        found[name] = value
        if key.endswith("_bn_s") and name != key:
            layer = name.removesuffix(".weight")
            found[f"{layer}.running_mean"] = torch.zeros_like(value)
            found[f"{layer}.running_var"] = torch.ones_like(value) - EPS
    return found


def _torchvision_name(key: str) -> str:
    if match := _STEM.fullmatch(key):
        return f"{'conv1' if match[1] == 'w' else 'bn1'}.{_ENDS[match[1]]}"
    if match := _BLOCK.fullmatch(key):
        layer = (_NORMS if match[4].startswith("bn") else _BRANCHES)[match[3]]
        return f"layer{int(match[1]) - 1}.{match[2]}.{layer}.{_ENDS[match[4]]}"
    return {"fc1000_w": "fc.weight", "fc1000_b": "fc.bias"}.get(key, key)
