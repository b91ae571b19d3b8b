"""torchvision's models as backbones. A run on the meta device determines their levels, channels and strides.

A level's name is `c{log2(stride)}` of the model. The side of a feature map is side / stride, rounded up or down. Only
inception_v3 and alexnet have up to four pixels less, because their first convolutions are not padded. Heads must
therefore resize one feature map to another's size, not by a factor.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, FeatureInfo, choose_features
from backbones.errors import UserError
from backbones.external import staged

# Two sides of images. The difference of a map's two sides gives its stride, even without padding.
_SIZES = (256, 512)
_CLASSIFIERS = ("classifier", "fc", "head", "heads", "AuxLogits", "aux1", "aux2")


def names() -> list[str]:
    """Return the names of all classification models of torchvision, as torchvision/<name>."""
    return [f"torchvision/{n}" for n in torchvision.models.list_models(module=torchvision.models)]


class Level(NamedTuple):
    """End of a level in a torchvision model's graph.

    Attributes:
        node: name of the graph's node whose output is the feature map.
        channels, stride: of the feature map.
        leaves: number of modules up to there.
    """

    node: str
    channels: int
    stride: int
    leaves: int


class TorchvisionBackbone(Backbone):
    """A backbone around a torchvision model, which torch.fx has cut so that it returns feature maps (attribute `net`).

    Args:
        net: the cut model.
        cuts: number of modules up to the end of the stem and of each level.
    """

    net: torch.fx.GraphModule

    def __init__(
        self,
        *,
        net: torch.fx.GraphModule,
        cuts: list[int],
        feature_info: Sequence[FeatureInfo],
        name: str,
        in_channels: int,
    ) -> None:
        arch = name.split("/", 1)[1]
        # These two were trained on inputs in -1..1. torchvision converts inside the model; here mean and std do it.
        inception = arch in ("googlenet", "inception_v3")
        mean, std = ((0.5,) * 3, (0.5,) * 3) if inception else (IMAGENET_MEAN, IMAGENET_STD)
        super().__init__(name=name, feature_info=feature_info, in_channels=in_channels, mean=mean, std=std)
        self.source = ("torchvision", arch)
        self.net = net
        self._cuts = cuts

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.net(x)

    def stages(self) -> list[list[nn.Module]]:
        leaves = [str(n.target) for n in self.net.graph.nodes if n.op == "call_module"]
        return staged(self.net, list(dict.fromkeys(leaves)), self._cuts)


def build(*, name: str, features: Sequence[str] | str, in_channels: int, output_stride: int) -> TorchvisionBackbone:
    """Build a torchvision model with random weights. The arguments are those of `backbones.build`."""
    if output_stride != 32:
        raise UserError(
            f"{name}: output_stride={output_stride} is not available for torchvision's models; use 32, as the "
            "segmentation heads fcn32s, fcn16s and fcn8s do"
        )
    whole = _whole(name, in_channels)
    ends = find_levels(whole, name, in_channels)
    if len(ends) < 2:
        raise UserError(
            f"{name} does not return feature maps of several strides; use a model with stages, such as "
            "torchvision/vgg16"
        )
    features = choose_features(name, features, tuple(ends))
    # Keep the ends of the levels up to the last chosen one, because freezing needs them.
    ends = {k: v for k, v in ends.items() if k <= features[-1]}
    net = create_feature_extractor(whole, {ends[f].node: f for f in features}, suppress_diff_warning=True)
    declared = [FeatureInfo(f, ends[f].channels, ends[f].stride) for f in features]
    cuts = [end.leaves for end in ends.values() if end.stride >= 4]
    stem = [end.leaves for end in ends.values() if end.stride < 4]
    return TorchvisionBackbone(
        net=net,
        cuts=[stem[-1] if stem else 0, *cuts],
        feature_info=declared,
        name=name,
        in_channels=in_channels,
    )


def _whole(name: str, in_channels: int) -> nn.Module:
    """Build a whole torchvision model whose first convolution takes `in_channels` channels."""
    arch = name.split("/", 1)[1]
    options = {
        "googlenet": {"aux_logits": False, "init_weights": True},
        "inception_v3": {"init_weights": True},
    }
    net = torchvision.models.get_model(arch, weights=None, **options.get(arch, {}))
    replace_first_conv(net, in_channels)
    return net


def replace_first_conv(net: nn.Module, in_channels: int) -> None:
    """Replace a model's first convolution, which takes three channels, by one that takes `in_channels`.

    Works in place.
    """
    if in_channels == 3:
        return
    path, conv = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, last = path.rpartition(".")
    setattr(net.get_submodule(parent), last, _conv_like(conv, in_channels))


def _conv_like(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    height, width = conv.kernel_size
    made = nn.Conv2d(
        in_channels,
        conv.out_channels,
        (height, width),
        stride=conv.stride,  # type: ignore[arg-type]  # torch declares a tuple of any length
        padding=conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def find_levels(whole: nn.Module, name: str, in_channels: int) -> dict[str, Level]:
    """Find the levels of a torchvision model, on the meta device.

    A level ends at the last node of its stride that is the end of a block and that every later node depends on only
    through it. Wider maps inside a block are not features.

    Returns:
        A dict from level names to the ends of the levels.

    Raises:
        UserError: torch.fx cannot cut the model.
    """
    try:
        graph, maps = _probe(whole, in_channels)
    except Exception as error:  # each model fails in its own way
        raise UserError(
            f"{name} does not return feature maps, because torch.fx cannot trace the model; use another model"
        ) from error
    # Order the nodes as the graph runs them.
    order = {node: i for i, node in enumerate(graph.nodes)}
    output = next(n for n in graph.nodes if n.op == "output").args[0]
    chain = sorted(((order[node], label, node) for label, node in output.items()), key=lambda entry: entry[0])
    tensors = {i for i, label, _ in chain if isinstance(maps[0][label], Tensor)}
    calls = [str(n.target) if n.op == "call_module" else None for n in graph.nodes]
    found: dict[str, Level] = {}
    reach = -1  # index of the last node that uses any output so far
    for (i, label, node), following in zip(chain, [*(e[1] for e in chain[1:]), ""], strict=True):
        # A level can end here if no later node uses an earlier output, and the block ends here.
        stride = _stride(maps[0][label], maps[1][label])
        if reach <= i and stride and _block(label) != _block(following):
            leaves = len({c for c in calls[: i + 1] if c})
            found[f"c{int(math.log2(stride))}"] = Level(label, maps[0][label].shape[1], stride, leaves)
        if i in tensors:
            reach = max([reach, *(order[u] for u in node.users if u.op != "output")])
    return found


def _probe(whole: nn.Module, in_channels: int) -> tuple[torch.fx.Graph, list[dict[str, Any]]]:
    """Return a model's graph without its classifier, and all nodes' outputs for two image sizes."""
    twin = copy.deepcopy(whole).to("meta")
    train, evaluation = get_graph_node_names(twin, suppress_diff_warning=True)
    chosen = [n for n in evaluation if n in set(train) and re.split(r"[._]", n)[0] not in _CLASSIFIERS]
    probe = create_feature_extractor(twin, chosen, suppress_diff_warning=True).eval()
    return probe.graph, [probe(torch.zeros(1, in_channels, s, s, device="meta")) for s in _SIZES]


def _stride(small: object, large: object) -> int | None:
    """Return the stride of a node's output, from its shapes at two image sizes; None if it is no feature map."""
    if not isinstance(small, Tensor) or not isinstance(large, Tensor) or small.ndim != 4:
        return None
    grown = large.shape[-1] - small.shape[-1]
    if grown <= 0 or large.shape[-2] - small.shape[-2] != grown or (_SIZES[1] - _SIZES[0]) % grown:
        return None
    stride = (_SIZES[1] - _SIZES[0]) // grown
    # Stride 1 is the resolution of the image, not a level.
    return stride if stride > 1 and stride & (stride - 1) == 0 else None


def _block(label: str) -> str:
    """Return the part of a model that a node belongs to: "features.2" for "features.2.0.block.0"."""
    return ".".join(label.split(".")[:2])
