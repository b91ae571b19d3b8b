"""Names to builders by one grammar: bare names are ours, `timm/...` and `torchvision/...` are explicit."""

import difflib
import fnmatch
import os
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from backbones.errors import UserError

if TYPE_CHECKING:
    from backbones.base import Backbone

_BUILDERS: dict[str, Callable[..., "Backbone"]] = {}
# Importing these registers our own nets; it happens on first use, because it brings torch along.
_HOMES = ("backbones.resnet",)
_EXTERNAL = {"timm": "backbones.external_timm", "torchvision": "backbones.external_torchvision"}
_STRIDES, _NORMS, _STYLES = (32, 16, 8), ("batch", "sync", "frozen", "group"), ("v1.5", "v1")
_SHORTCUTS = (None, "A", "B", "C")
Features: TypeAlias = Sequence[str] | Literal["all", "last"]


def register(name: str) -> Callable[[Callable[..., "Backbone"]], Callable[..., "Backbone"]]:
    """Decorator: the function builds the net `name`, without weights.

    It is called as ``builder(name=, features=, in_channels=, output_stride=, norm=, stride_style=, shortcut=)``
    and gives a `Backbone`; norm is "batch" or "group" ("frozen" and "sync" are made afterwards, by module object).

    Raises:
        ValueError: the name is taken, or holds a slash (those are external nets).
    """
    if name in _BUILDERS:
        raise ValueError(f"backbone {name!r} is registered already, by {_BUILDERS[name]!r}")
    if "/" in name:
        raise ValueError(f"backbone {name!r}: a slash is kept for external nets")

    def add(builder: Callable[..., "Backbone"]) -> Callable[..., "Backbone"]:
        _BUILDERS[name] = builder
        return builder

    return add


def names(pattern: str = "*") -> list[str]:
    """Names that match a wildcard pattern, in natural order (resnet18 before resnet101).

    "timm/..." and "torchvision/..." patterns list those libraries' nets; any other lists ours alone.
    """
    prefix = pattern.split("/", 1)[0] if "/" in pattern else ""
    return sorted(fnmatch.filter(_known(prefix), pattern), key=_natural)


def build(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = "imagenet",
    features: Features = "all",
    in_channels: int = 3,
    output_stride: int = 32,
    norm: str = "batch",
    stride_style: str = "v1.5",
    shortcut: str | None = None,
) -> "Backbone":
    """Build a backbone by name.

    Args:
        name: one of `names()`, or "timm/<name>" or "torchvision/<name>".
        weights: "imagenet", a named tag, a file, "hf:owner/name" (a repository of the hub), or None for random ones.
        features: levels to return, `c{log2(stride)}`, such as ("c2", "c5"); stages behind the last one are dropped.
            "all" is c2 to c5, or c0 to c2 of the CIFAR nets; "last" the deepest of them.
        in_channels: channels of the input; other than 3 adapts the first convolution of the weights.
        output_stride: 32, or 16 or 8 with dilated last stages.
        norm: "batch"; "sync" (its statistics are those of all processes together); "frozen" (statistics and affine
            fixed; wants weights); "group" (32 groups, ours only).
        stride_style: stride on the 3x3 ("v1.5") or, as in the paper, on the first 1x1 ("v1"); ours only.
        shortcut: option "A" (identity, zeros for new channels), "B" (projections where the size changes) or "C"
            (projections everywhere) of section 3.3; None is the net's own: B, and A for the CIFAR nets; ours only.

    Raises:
        UserError: unknown name, option or feature, or weights that cannot be had or do not fit.
    """
    _check_options(
        in_channels=in_channels, output_stride=output_stride, norm=norm, stride_style=stride_style, shortcut=shortcut
    )
    _check_features(features)
    if norm == "frozen" and weights is None:
        raise UserError(
            f"{name}: norm='frozen' with weights=None would freeze random statistics; give weights or take norm='batch'"
        )
    net = _builder(name)(
        name=name,
        features=features if isinstance(features, str) else tuple(features),
        in_channels=in_channels,
        output_stride=output_stride,
        norm="group" if norm == "group" else "batch",
        stride_style=stride_style,
        shortcut=shortcut,
    )
    if weights is not None:
        from backbones.weights.hub import local
        from backbones.weights.loading import load

        weights = local(weights)

        net.accept(load(net, weights), weights)
    if norm == "frozen":
        from backbones.norm import freeze_batch_norm

        freeze_batch_norm(net)
    if norm == "sync":
        from backbones.norm import synchronise_batch_norm

        synchronise_batch_norm(net)
    return net


def _known(prefix: str) -> list[str]:
    """All names of one origin: "" for ours, else "timm" or "torchvision"."""
    if prefix in _EXTERNAL:
        return import_module(_EXTERNAL[prefix]).names()
    for home in _HOMES:
        import_module(home)
    return list(_BUILDERS)


def _builder(name: str) -> Callable[..., "Backbone"]:
    if not isinstance(name, str):
        raise UserError(f"a backbone is named by a string, got {type(name).__name__}; see backbones.names()")
    prefix = name.split("/", 1)[0] if "/" in name else ""
    # A timm name may carry a tag behind a dot; the listing has the bare architectures.
    if (name.split(".", 1)[0] if prefix == "timm" else name) not in _known(prefix):
        raise UserError(_unknown(name, prefix))
    if prefix in _EXTERNAL:
        return import_module(_EXTERNAL[prefix]).build
    return _BUILDERS[name]


def _unknown(name: str, prefix: str) -> str:
    near = difflib.get_close_matches(name, _known(prefix), n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "backbones.names() lists ours, names('timm/*') timm's"
    return f"unknown backbone {name!r}: {hint}"


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which numbers compare by value."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def _check_options(**options: Any) -> None:
    channels = options.pop("in_channels")
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise UserError(f"in_channels={channels!r}: expected a whole number of at least 1")
    for key, allowed in (
        ("output_stride", _STRIDES),
        ("norm", _NORMS),
        ("stride_style", _STYLES),
        ("shortcut", _SHORTCUTS),
    ):
        if options[key] not in allowed:
            raise UserError(f"{key}={options[key]!r}: expected one of {', '.join(map(repr, allowed))}")


def _check_features(features: Features) -> None:
    if features in ("all", "last"):
        return
    listed = features if isinstance(features, (tuple, list)) else ()
    levels = [int(f[1:]) if isinstance(f, str) and re.fullmatch(r"c\d", f) else -1 for f in listed]
    if not levels or -1 in levels or levels != sorted(set(levels)):
        raise UserError(
            f"features={features!r}: expected 'all', 'last' or names such as ('c2', 'c5'), rising and distinct"
        )
