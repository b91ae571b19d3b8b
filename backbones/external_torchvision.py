"""torchvision's nets behind the contract of a backbone: levels found by stride, channels and strides declared.

A level's name is `c{log2(stride)}` of the undilated net. A map's side is the ceiling or floor of side/stride, but for
inception_v3 and alexnet, whose unpadded convolutions give up to four less: heads resize to the map beside, never by a
factor.
"""

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

# Two sizes that every stride divides: the difference of a map's sides gives its stride even where padding is absent.
_SIZES = (256, 512)
_CLASSIFIERS = ("classifier", "fc", "head", "heads", "AuxLogits", "aux1", "aux2")


def names() -> list[str]:
    """Every classification net of torchvision, as torchvision/<name>."""
    return [f"torchvision/{n}" for n in torchvision.models.list_models(module=torchvision.models)]


class Level(NamedTuple):
    """Where a level ends in a torchvision net's graph, behind how many of its modules."""

    node: str
    channels: int
    stride: int
    leaves: int


class TorchvisionBackbone(Backbone):
    """A torchvision net cut by torch.fx at its levels, `net`."""

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
        # These two were trained on inputs in -1..1: torchvision converts inside the net, here the contract says it.
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
    """A torchvision net, random; the options are those of `backbones.build`."""
    if output_stride != 32:
        raise UserError(
            f"{name}: output_stride={output_stride} is not available for torchvision's nets; use 32, as the "
            "segmentation heads fcn32s, fcn16s and fcn8s do"
        )
    whole = _whole(name, in_channels)
    ends = find_levels(whole, name, in_channels)
    if len(ends) < 2:
        raise UserError(f"{name} gives no feature pyramid; take a net with stages, such as torchvision/vgg16")
    features = choose_features(name, features, tuple(ends))
    # Levels above the last wanted one serve as marks for freezing; those behind it are gone.
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
    """The whole torchvision net, its first convolution made for `in_channels`."""
    arch = name.split("/", 1)[1]
    options = {
        "googlenet": {"aux_logits": False, "init_weights": True},
        "inception_v3": {"init_weights": True},
    }
    net = torchvision.models.get_model(arch, weights=None, **options.get(arch, {}))
    rewiden(net, in_channels)
    return net


def rewiden(net: nn.Module, in_channels: int) -> None:
    """Make the first convolution of a net for three channels anew for `in_channels`, in place."""
    if in_channels == 3:
        return
    path, conv = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, last = path.rpartition(".")
    setattr(net.get_submodule(parent), last, _rewidened(conv, in_channels))


def _rewidened(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    geometry: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "bias": conv.bias is not None}
    size: Any = conv.kernel_size
    made = nn.Conv2d(in_channels, conv.out_channels, size, **geometry)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def find_levels(whole: nn.Module, name: str, in_channels: int) -> dict[str, Level]:
    """The last place at each power-of-two stride through which everything behind it flows; computed on no data.

    Only ends of blocks count: the widened maps inside a block are no features, though some are places of that kind.
    """
    try:
        graph, maps = _probe(whole, in_channels)
    except Exception as error:  # fx refuses nets in as many ways as there are nets
        raise UserError(f"{name} gives no feature pyramid: torch.fx cannot cut it; take another net") from error
    order = {node: i for i, node in enumerate(graph.nodes)}
    output = next(n for n in graph.nodes if n.op == "output").args[0]
    chain = sorted(((order[node], label, node) for label, node in output.items()), key=lambda entry: entry[0])
    tensors = {i for i, label, _ in chain if isinstance(maps[0][label], Tensor)}
    calls = [str(n.target) if n.op == "call_module" else None for n in graph.nodes]
    found: dict[str, Level] = {}
    reach = -1  # the furthest use of anything made so far
    for (i, label, node), following in zip(chain, [*(e[1] for e in chain[1:]), ""], strict=True):
        stride = _stride(maps[0][label], maps[1][label])
        if reach <= i and stride and _block(label) != _block(following):
            leaves = len({c for c in calls[: i + 1] if c})
            found[f"c{int(math.log2(stride))}"] = Level(label, maps[0][label].shape[1], stride, leaves)
        if i in tensors:
            reach = max([reach, *(order[u] for u in node.users if u.op != "output")])
    return found


def _probe(whole: nn.Module, in_channels: int) -> tuple[torch.fx.Graph, list[dict[str, Any]]]:
    """The net's graph without its classifier, and every node's output at two sizes."""
    twin = copy.deepcopy(whole).to("meta")
    train, evaluation = get_graph_node_names(twin, suppress_diff_warning=True)
    wanted = [n for n in evaluation if n in set(train) and re.split(r"[._]", n)[0] not in _CLASSIFIERS]
    probe = create_feature_extractor(twin, wanted, suppress_diff_warning=True).eval()
    return probe.graph, [probe(torch.zeros(1, in_channels, s, s, device="meta")) for s in _SIZES]


def _stride(small: Any, large: Any) -> int | None:
    """Stride of a feature map from its sides at the two sizes; None for what is no map at a power-of-two stride."""
    if not isinstance(small, Tensor) or small.ndim != 4:
        return None
    grown = large.shape[-1] - small.shape[-1]
    if grown <= 0 or large.shape[-2] - small.shape[-2] != grown or (_SIZES[1] - _SIZES[0]) % grown:
        return None
    stride = (_SIZES[1] - _SIZES[0]) // grown
    # stride 1 is the image's own resolution, no level
    return stride if stride > 1 and stride & (stride - 1) == 0 else None


def _block(label: str) -> str:
    """features.2.0.block.0 -> features.2: the part of a net in which a node lies."""
    return ".".join(label.split(".")[:2])
