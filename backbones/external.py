"""timm's and torchvision's nets behind the same contract: levels found by stride, channels and strides declared.

A level's name is `c{log2(stride)}` of the undilated net. A map's side is the ceiling or floor of side/stride, but for
inception_v3 and alexnet, whose unpadded convolutions give up to four less: heads resize to the map beside, never by a
factor. Some families of timm (hrnet, dla) take only sides that 32 divides.
"""

import copy
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.models._features import FeatureDictNet
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, FeatureInfo, LastStage, choose_features, per_channel
from backbones.download import timm_config
from backbones.errors import UserError

# Two sizes that every stride divides: the difference of a map's sides gives its stride even where padding is absent.
_SIZES = (256, 512)
_CLASSIFIERS = ("classifier", "fc", "head", "heads", "AuxLogits", "aux1", "aux2")


def timm_names() -> list[str]:
    """Every net of timm, as timm/<name>."""
    return [f"timm/{n}" for n in timm.list_models()]


def torchvision_names() -> list[str]:
    """Every classification net of torchvision, as torchvision/<name>."""
    return [f"torchvision/{n}" for n in torchvision.models.list_models(module=torchvision.models)]


class TimmBackbone(Backbone):
    """A timm net in its features_only form, `net`."""

    net: Any  # timm's wrappers share an interface, but no type that says so

    def __init__(self, *, net: Any, feature_info: Sequence[FeatureInfo], name: str, in_channels: int) -> None:
        config = net.pretrained_cfg
        mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
        super().__init__(name=name, feature_info=feature_info, in_channels=in_channels, mean=mean, std=std)
        self.source: tuple[str, str] = ("timm", name.split("/", 1)[1])
        self.net = net
        patches = [m.patch_size for m in net.modules() if isinstance(m, timm.layers.PatchEmbed)]
        self.patch: tuple[int, int] = patches[0] if patches else (1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width = x.shape[-2:]
        # Some nets refuse parts of a patch; a border of zeros gives as many rows as convolutions round up to.
        maps = self.net(F.pad(x, (0, -width % self.patch[1], 0, -height % self.patch[0])))
        if self._channels_last():
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return {f.name: m for f, m in zip(self.feature_info, maps, strict=True)}

    def _channels_last(self) -> bool:
        """Some families (Swin) put channels last in their maps."""
        return str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")

    def adopt_normalisation(self, weights: str | os.PathLike[str]) -> None:
        super().adopt_normalisation(weights)
        config = timm_config(self.source[1], str(weights))
        if config is not None:
            self.mean = per_channel(config.mean, self.in_channels)
            self.std = per_channel(config.std, self.in_channels)

    def stages(self) -> list[list[nn.Module]]:
        leaves = [n for n, m in self.net.named_modules() if not list(m.children())]
        info = self.net.feature_info.info
        spans = _spans(leaves, [entry["module"] for entry in info if entry["reduction"] >= 4])
        before = _spans(leaves, [entry["module"] for entry in info if entry["reduction"] < 4])
        start, stop = spans[0]
        # Where a level is named by its last layer alone (VGG's pools), it begins behind the level before.
        stem = before[-1][1] if before and stop - start == 1 else start
        return staged(self.net, leaves, [stem, *(stop for _, stop in spans)])

    def split_last_stage(self) -> tuple[Backbone, LastStage]:
        _, last = self._before_last()
        # Maps with channels last are turned on the way out, which the cut-off stage would not expect.
        if not isinstance(self.net, FeatureDictNet) or self._channels_last():
            return super().split_last_stage()
        children = list(self.net.named_children())
        ends = list(self.net.return_layers)
        cut = [n for n, _ in children].index(ends[-2]) + 1
        trunk = copy.copy(self)
        trunk._modules = {**self._modules, "net": copy.copy(self.net)}
        trunk.net._modules = dict(children[:cut])
        trunk.net.return_layers = {k: v for k, v in self.net.return_layers.items() if k != ends[-1]}
        trunk.feature_info = self.feature_info[:-1]
        return trunk, LastStage([m for _, m in children[cut:]], last)


def _spans(names: list[str], ends: list[str]) -> list[tuple[int, int]]:
    """Where the modules under each prefix begin and stop.

    timm's wrappers rename stages.0 to stages_0 or model.stages.0.
    """
    spans = []
    for end in ends:
        prefixes = (end, end.replace(".", "_", 1), f"model.{end}")
        at = [i for i, n in enumerate(names) if any(n == p or n.startswith(f"{p}.") for p in prefixes)]
        if at:
            spans.append((at[0], at[-1] + 1))
    return spans


def build_timm(
    *,
    name: str,
    features: Sequence[str],
    in_channels: int,
    output_stride: int,
    norm: str,
    stride_style: str,
    shortcut: str | None,
) -> TimmBackbone:
    """A timm net, random; the options are those of `backbones.build`."""
    refuse_ours_only(name, norm, stride_style, shortcut)
    _check_tag(name)
    levels = _timm_levels(name)
    features = choose_features(name, features, tuple(levels))
    options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    config = timm.models.get_pretrained_cfg(name.split("/", 1)[1])
    if config is not None and config.fixed_input_size:
        options["strict_img_size"] = False  # windowed nets take any size then, and pad inside
    try:
        net: Any = timm.create_model(
            name.split("/", 1)[1],
            features_only=True,
            out_indices=tuple(levels[f] for f in features),
            in_chans=in_channels,
            **options,
        )
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"{name}: timm cannot build it with {_spoken(options)}; take other options or another net"
        ) from error
    info = net.feature_info
    declared = [FeatureInfo(f, c, s) for f, c, s in zip(features, info.channels(), info.reduction(), strict=True)]
    return TimmBackbone(net=net, feature_info=declared, name=name, in_channels=in_channels)


def _check_tag(name: str) -> None:
    """Refuse "timm/<net>.<tag>" with a tag that the net does not have."""
    arch, _, tag = name.split("/", 1)[1].partition(".")
    if tag and timm_config(arch, tag) is None:
        tags = ", ".join(n.split(".", 1)[1] for n in timm.list_pretrained(f"{arch}.*"))
        raise UserError(f"{name}: timm/{arch} has no weights {tag!r}; it has {tags or 'none'}")


def _spoken(options: dict[str, Any]) -> str:
    """The options in the user's words."""
    words = {"strict_img_size": "inputs of any size"}
    return ", ".join(words.get(k, f"{k}={v}") for k, v in options.items()) or "these options"


def _timm_levels(name: str) -> dict[str, int]:
    """Level -> index of timm's feature list: the last entry at each stride of the undilated net."""
    try:
        with torch.device("meta"):
            net: Any = timm.create_model(name.split("/", 1)[1], features_only=True, pretrained=False)
        reductions = [entry["reduction"] for entry in net.feature_info.info]
    except Exception as error:  # timm raises whatever each family likes
        raise UserError(
            f"{name} gives no feature pyramid; take a net with stages, such as timm/convnext_tiny"
        ) from error
    levels = {f"c{int(math.log2(r))}": i for i, r in enumerate(reductions) if r > 1 and math.log2(r).is_integer()}
    if len(levels) < 2:
        raise UserError(f"{name} gives no feature pyramid (one stride only); take a net with stages")
    return levels


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


def build_torchvision(
    *,
    name: str,
    features: Sequence[str],
    in_channels: int,
    output_stride: int,
    norm: str,
    stride_style: str,
    shortcut: str | None,
) -> TorchvisionBackbone:
    """A torchvision net, random; the options are those of `backbones.build`."""
    refuse_ours_only(name, norm, stride_style, shortcut)
    if output_stride != 32:
        raise UserError(
            f"{name}: output_stride={output_stride} is not to be had of torchvision's nets; take 32, as heads fcn32s "
            "to fcn8s do"
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


def staged(net: nn.Module, leaves: Sequence[str], cuts: Sequence[int]) -> list[list[nn.Module]]:
    """Group modules into stages: `leaves` in the order of their use, cut behind those numbers of them.

    A parent belongs to a stage that holds all of its leaves, and brings the parameters that hang on itself.
    """
    groups = []
    for start, stop in zip([0, *cuts[:-1]], cuts, strict=True):
        inside, outside = set(leaves[start:stop]), [*leaves[:start], *leaves[stop:]]
        parents = {leaf.rsplit(".", i)[0] for leaf in inside for i in range(1, leaf.count(".") + 1)}
        whole = {p for p in parents if not any(leaf.startswith(f"{p}.") for leaf in outside)}
        groups.append([m for n, m in net.named_modules() if n in inside | whole])
    return groups


def refuse_ours_only(name: str, norm: str, stride_style: str, shortcut: str | None) -> None:
    """Raise a `UserError` for an option that only our own nets have."""
    if norm == "group":
        raise UserError(f"{name}: norm='group' is for our own nets; take 'batch' or 'frozen'")
    if stride_style != "v1.5":
        raise UserError(f"{name}: stride_style={stride_style!r} is for our own nets; leave it out")
    if shortcut is not None:
        raise UserError(f"{name}: shortcut={shortcut!r} is for our own residual nets; leave it out")
