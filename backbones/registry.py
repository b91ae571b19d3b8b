"""Builds backbones by name.

`timm/...` and `torchvision/...` are models of libraries; other names are ours or a plugin's.
"""

from __future__ import annotations

import fnmatch
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar, cast

from backbones.common.keywords import known_keywords
from backbones.common.numeric import whole_number
from backbones.common.registry import Registry, unknown_name
from backbones.errors import UserError
from backbones.weights.sources import SOURCES, chosen_style

if TYPE_CHECKING:
    from backbones.base import Backbone

Features: TypeAlias = Sequence[str] | Literal["all", "last"]
BackboneBuilder: TypeAlias = Callable[..., "Backbone"]
_Registered = TypeVar("_Registered", bound=BackboneBuilder)

BACKBONES: Registry[BackboneBuilder] = Registry("backbone")
# Importing this module registers our own backbones. It happens on first use because it imports torch.
_OURS = "backbones.resnet"
_LIBRARIES = {"torchvision": "backbones.external_torchvision", "timm": "backbones.external_timm"}

# What a builder may have in its signature. An option with a default may be missing there: see `register`.
_ALWAYS = ("name", "features", "in_channels")
_DEFAULTS: Mapping[str, object] = {"output_stride": 32, "norm": "batch", "stride_style": "v1.5", "shortcut": None}
_CHOICES: Mapping[str, tuple[object, ...]] = {
    "output_stride": (32, 16, 8),
    "norm": ("batch", "sync", "frozen", "group"),
    "stride_style": ("v1.5", "v1"),
    "shortcut": (None, "A", "B", "C"),
}


class _Library(Protocol):
    """Interface of a module that builds the backbones of another library, such as timm."""

    build: BackboneBuilder

    def names(self) -> list[str]: ...


def register(name: str) -> Callable[[_Registered], _Registered]:
    """Return a decorator that registers a function as the builder of the backbone `name`.

        @backbones.register("my_net")
        def my_net(*, features, in_channels):
            return MyNet(features, in_channels)  # a backbones.Backbone

    `build` passes by keyword the options that the signature names, and no others; `**` receives nothing:

    - `name`: the registered name.
    - `features`: "all", "last" or a tuple of levels; `choose_features` turns it into levels of the network.
    - `in_channels`: channels of the input.
    - `output_stride`: 32, 16 or 8.
    - `norm`: "batch" or "group". `build` converts batch norm for "frozen" and "sync" afterwards.
    - `stride_style`, `shortcut`: options of ResNets.

    The builder returns a `Backbone` with random weights. `build` refuses a value that the caller chose if the signature
    does not name its option, and a backbone whose features, channels or strides are not what the caller chose.

    Raises:
        ValueError: the name is registered already or contains a slash, or the builder requires a parameter that is
            not listed above.
    """
    if isinstance(name, str) and "/" in name:
        raise ValueError(f"backbone {name!r}: names with a slash are for other libraries, such as timm/resnet50")
    _register_ours()
    add = BACKBONES.register(name)

    def checked(builder: _Registered) -> _Registered:
        _parameters(name, builder)
        return add(builder)

    return checked


def names(pattern: str = "*") -> list[str]:
    """Return the names that match a wildcard pattern, in natural order (resnet18 before resnet101).

    "timm/..." and "torchvision/..." patterns list those libraries' models. Any other pattern lists bare names only.
    """
    prefix = pattern.split("/", 1)[0] if "/" in pattern else ""
    return sorted(fnmatch.filter(_known(prefix), pattern), key=_natural)


@known_keywords("backbones.build")
def build(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = "imagenet",
    features: Features = "all",
    in_channels: int = 3,
    output_stride: int = 32,
    norm: str = "batch",
    stride_style: str | None = None,
    shortcut: str | None = None,
    weights_from: str | None = None,
) -> Backbone:
    """Build a backbone by name.

    Args:
        name: one of `names()`, or "timm/<name>" or "torchvision/<name>".
        weights: "imagenet", a named tag, a file, "hf:owner/name" (a repository of the Hugging Face hub), or None for
            random weights. "FILE::PART" loads one of several encoders of a file, such as "moco.pth::module.encoder_k".
        features: levels to return, `c{log2(stride)}`, such as ("c2", "c5"). Stages after the last one are left out.
            "all" is c2 to c5 (c0 to c2 for the CIFAR networks); "last" is the deepest of them.
        in_channels: channels of the input. If it is not 3, the weights of the first convolution are adapted.
        output_stride: 32, or 16 or 8 with dilated last stages.
        norm: "batch"; "sync" (statistics over all processes); "frozen" (fixed statistics and affine parameters; needs
            weights); "group" (32 groups; not for models of other libraries).
        stride_style: "v1.5" puts the stride on the 3x3 convolution, "v1" on the first 1x1 as in the paper. Our
            ResNets only. None is the style of the weights if it is known, else v1.5.
        shortcut: option of section 3.3 of the paper: "A" (identity, zeros for new channels), "B" (projections where
            the size changes) or "C" (projections everywhere). None is the network's own option: B, or A for the
            CIFAR networks. Our ResNets only.
        weights_from: program that made the weights file, such as "detectron2" (see `backbones.weights.sources`). It
            sets channel order, normalisation, stride style and epsilon, which the file does not say.

    Raises:
        UserError: the name, an option or a feature is unknown, or the weights are not available or do not fit.
    """
    style = chosen_style(stride_style, weights_from, _recorded_style(weights))
    given: dict[str, object] = {
        "output_stride": output_stride,
        "norm": norm,
        "stride_style": style or _DEFAULTS["stride_style"],
        "shortcut": shortcut,
    }
    in_channels = whole_number("in_channels", in_channels)
    _check_choices(given)
    _check_features(features)
    if norm == "frozen" and weights is None:
        raise UserError(
            f"{name}: norm='frozen' with weights=None would freeze random statistics; give weights or use norm='batch'"
        )
    given["norm"] = "group" if norm == "group" else "batch"  # the others are made after the weights are loaded
    chosen = features if isinstance(features, str) else tuple(features)
    backbone = _built(name, {"features": chosen, "in_channels": in_channels, **given})
    _check_built(backbone, name, features=chosen, in_channels=in_channels, output_stride=output_stride)
    if weights_from is not None:
        backbone.come_from(weights_from)
    if weights is not None:
        _fill(backbone, weights)
    if norm in ("frozen", "sync"):
        from backbones.norm import freeze_batch_norm, synchronise_batch_norm

        (freeze_batch_norm if norm == "frozen" else synchronise_batch_norm)(backbone)
    return backbone


def _built(name: str, options: Mapping[str, object]) -> Backbone:
    """Call the builder of a backbone with the options that its signature names.

    Raises:
        UserError: the name is unknown, or another option has no default value.
    """
    builder = _builder(name)
    taken = _parameters(name, builder)
    refuse_options(name, {option: options[option] for option in _DEFAULTS if option not in taken})
    return builder(**{option: value for option, value in {"name": name, **options}.items() if option in taken})


def refuse_options(name: str, options: Mapping[str, object]) -> None:
    """Refuse options that a backbone does not have, unless they have their default values.

    Args:
        name: the backbone, for the message.
        options: any of output_stride, norm ("batch" or "group"), stride_style and shortcut.

    Raises:
        UserError: naming the first option with another value.
    """
    for option, value in options.items():
        if value != _DEFAULTS[option]:
            raise UserError(
                f"{name}: {option}={value!r} is not available for this backbone; leave {option} out "
                f"(its default is {_DEFAULTS[option]!r}) or use another backbone, such as resnet50"
            )


def _recorded_style(weights: str | os.PathLike[str] | None) -> str | None:
    """Return the stride style that the header of our own weights file records; None if there is none."""
    if weights is None or not str(weights).endswith(".safetensors"):
        return None
    from backbones.weights.files import read_meta

    model = read_meta(weights).get("model", {})
    known = SOURCES.get(model.get("weights_from"))
    return model.get("stride_style") or (known.stride_style if known else None)


def _fill(backbone: Backbone, weights: str | os.PathLike[str]) -> None:
    from backbones.weights.hub import resolve
    from backbones.weights.loading import load

    weights = resolve(weights)
    backbone.accept(load(backbone, weights), weights)


def _parameters(name: str, builder: BackboneBuilder) -> set[str]:
    """Return the options that a builder's signature names.

    Raises:
        ValueError: it requires a parameter that `build` does not have.
    """
    parameters = inspect.signature(builder).parameters.values()
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {p.name for p in parameters if p.kind not in variable}
    offered = {*_ALWAYS, *_DEFAULTS}
    for parameter in parameters:
        required = parameter.default is parameter.empty and parameter.kind not in variable
        if required and (parameter.name not in offered or parameter.kind is parameter.POSITIONAL_ONLY):
            raise ValueError(
                f"backbone {name!r}: its builder requires the parameter {parameter.name!r}, which backbones.build does "
                f"not pass; it passes by keyword: {', '.join([*_ALWAYS, *_DEFAULTS])}"
            )
    return named & offered


def _check_built(
    backbone: object, name: str, *, features: tuple[str, ...] | str, in_channels: int, output_stride: int
) -> None:
    """Check that a builder returned the backbone that the caller chose.

    Raises:
        UserError: saying what differs.
    """
    from backbones.base import Backbone

    if not isinstance(backbone, Backbone):
        raise UserError(
            f"{name}: its builder returned an object of type {type(backbone).__name__}; return a backbones.Backbone"
        )
    returned = tuple(info.name for info in backbone.feature_info)
    if (features == "last" and len(returned) != 1) or (isinstance(features, tuple) and returned != features):
        raise UserError(
            f"{name}: features={features!r} were chosen, but the backbone returns "
            f"{', '.join(returned) or 'none'}; choose the returned features, or make the builder return "
            "those that `features` names"
        )
    if backbone.in_channels != in_channels:
        raise UserError(
            f"{name}: in_channels={in_channels} was chosen, but the backbone has {backbone.in_channels} "
            f"input channels; choose in_channels={backbone.in_channels}, or make the builder use its "
            "argument `in_channels`"
        )
    largest = max((info.stride for info in backbone.feature_info), default=1)
    if output_stride != _DEFAULTS["output_stride"] and largest > output_stride:
        raise UserError(
            f"{name}: output_stride={output_stride} was chosen, but the backbone's output has stride "
            f"{largest}; leave output_stride out or use another backbone"
        )


def _register_ours() -> None:
    """Register the project's own backbones before any plugin can use their names."""
    if _OURS not in sys.modules:
        import_module(_OURS)


def _library(prefix: str) -> _Library:
    return cast(_Library, import_module(_LIBRARIES[prefix]))


def _known(prefix: str) -> list[str]:
    """Return all backbone names with a prefix: "timm", "torchvision", or "" for names without a prefix."""
    if prefix in _LIBRARIES:
        return _library(prefix).names()
    _register_ours()
    return BACKBONES.names()


def _builder(name: str) -> BackboneBuilder:
    if not isinstance(name, str):
        raise UserError(
            f"backbone {name!r}: expected a name as a string, got {type(name).__name__}; "
            "backbones.names() lists the names"
        )
    prefix = name.split("/", 1)[0] if "/" in name else ""
    known = _known(prefix)
    # A timm name may end in a tag after a dot. timm's list has the names without tags.
    if (name.split(".", 1)[0] if prefix == "timm" else name) not in known:
        hint = "tools/list_backbones.py and backbones.names() list our own, with the pattern 'timm/*' those of timm"
        if not prefix and (elsewhere := [f"{library}/{name}" for library in _LIBRARIES if _has(library, name)]):
            raise UserError(f"unknown backbone {name!r}: did you mean {' or '.join(elsewhere)}?")
        raise unknown_name("backbone", name, known, otherwise=hint)
    return _library(prefix).build if prefix in _LIBRARIES else BACKBONES[name]


def _has(library: str, name: str) -> bool:
    """Return whether a library has a model of this name, which may end in a tag of timm."""
    return f"{library}/{name.split('.', 1)[0]}" in _known(library)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that compares the numbers in a name by value."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def _check_choices(options: Mapping[str, object]) -> None:
    for option, value in options.items():
        if value not in _CHOICES[option]:
            raise UserError(f"{option}={value!r}: expected one of {', '.join(map(repr, _CHOICES[option]))}")


def _check_features(features: object) -> None:
    if features in ("all", "last"):
        return
    listed = features if isinstance(features, (tuple, list)) else ()
    levels = [int(f[1:]) if isinstance(f, str) and re.fullmatch(r"c\d", f) else -1 for f in listed]
    if not levels or -1 in levels or levels != sorted(set(levels)):
        raise UserError(
            f"features={features!r}: expected 'all', 'last', or different names in ascending order, such as "
            "('c2', 'c5')"
        )
