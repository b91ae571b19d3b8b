"""Loads weights into a model: finds the entries, matches their names, adapts input channels and reports the result."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from backbones.base import Backbone
from backbones.errors import UserError, first_names
from backbones.weights.caffe2 import from_caffe2, has_caffe2_names
from backbones.weights.files import read_checkpoint, read_meta
from backbones.weights.names import (
    COUNTER,
    aliases,
    best_prefix,
    find_linear,
    name_children,
    other_prefixes,
    torchvision_name,
)
from backbones.weights.pretraining import left_out
from backbones.weights.published import timm_state, torchvision_state
from backbones.weights.report import LoadReport
from backbones.weights.sources import check_author, is_path, is_weights_file, source_named

# Beginnings of classifier entries. A backbone has no classifier.
_CLASSIFIERS = ("fc.", "classifier.", "head.", "linear.")
_FROM_DETECTRON2 = (
    "has detectron2's names, which do not say how images are prepared; add weights_from='detectron2' for its own "
    "models (BGR, stride on the 1x1 convolution), or 'torchvision' or 'moco' for files that were converted from these"
)


def load(
    module: nn.Module,
    weights: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    source: str | None = None,
    ignore: Sequence[str] = _CLASSIFIERS,
    adapt_input: str | None = None,
    minimum: float = 0.9,
) -> LoadReport:
    """Load weights into a model in place and return what matched. On an error the model stays unchanged.

    Args:
        module: a `Backbone`, or any model if `weights` is a mapping.
        weights: entries by name; for a `Backbone` also "imagenet", a named tag or a file.
        source: description of the weights for the report. By default the file or the tag.
        ignore: beginnings of classifier entries. The report lists them apart, and entries of another shape are skipped.
        adapt_input: key of the first convolution's weight, which is adapted to the model's input channels. By default,
            for a `Backbone` with another number of channels than 3, every convolution on the input is adapted.
        minimum: fraction of the model's entries that must match, 0..1.

    Raises:
        UserError: the weights are not available, a shape differs, or fewer entries than `minimum` match.
    """
    if isinstance(weights, Mapping):
        state, found_at = dict(weights), "weights"
    else:
        state, found_at = state_for(module, weights)
    named = _named(module, state)
    name = module.weights_from if isinstance(module, Backbone) else None
    # The weights in our own files were converted when they were loaded first.
    known = None if name is None or read_meta(source or found_at) else source_named(name)
    renamed = named.keys() != state.keys()
    if renamed and known is None and isinstance(module, Backbone) and _has_detectron2_names(state):
        raise UserError(f"{source or found_at}: {_FROM_DETECTRON2}")
    if renamed and has_caffe2_names(state) and not (known and known.bgr):
        raise UserError(
            f"{source or found_at}: has Caffe2's names, so its images are BGR; add weights_from='detectron2'"
        )
    if known and known.bgr:
        named = {key: _flipped(value) for key, value in named.items()}
    report = _fill(module, named, source or found_at, tuple(ignore), adapt_input, minimum)
    return replace(report, note=known.describe(str(name))) if known else report


def load_linear(
    layer: nn.Linear, weights: Mapping[str, Tensor], report: LoadReport, *, backbone: nn.Module
) -> LoadReport:
    """Load the linear layer that follows a backbone in a file, if it has one of this shape.

    Args:
        weights: entries of the file.
        report: of the backbone that was loaded from the same entries.

    Returns:
        The report of backbone and layer, which is `fc`.
    """
    state = _named(backbone, weights)
    names = find_linear(state, report.prefix, layer.weight.shape)
    # Load all rows or none: rows of another data set belong to other classes.
    if names is not None:
        layer.load_state_dict({"weight": state[names[0]], "bias": state[names[1]]})
    return report.with_head(names)


def state_for(module: nn.Module, weights: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """Return a backbone's weights, given as "imagenet", a tag or a file, and a description of their source."""
    if not isinstance(weights, (str, os.PathLike)):
        raise UserError(f"weights={weights!r}: expected 'imagenet', a tag, a file or None")
    word = os.fspath(weights)
    if is_path(weights) or (word != "imagenet" and is_weights_file(word)):
        checkpoint = read_checkpoint(word)
        check_author(word, checkpoint.author, module.weights_from if isinstance(module, Backbone) else None)
        return checkpoint.entries, checkpoint.source
    if isinstance(module, Backbone) and module.weights_from:
        raise UserError(f"weights_from={module.weights_from!r}: is for files, not for weights={word!r}; leave it out")
    published = module.source if isinstance(module, Backbone) else None
    if published is None:
        raise UserError(
            f"{_name(module)}: no published weights {word!r} exist for this model; use weights=None or a file"
        )
    library, arch = published
    state = timm_state(arch, word) if library == "timm" else torchvision_state(arch, word)
    return state, f"{library} {arch} {word}"


def _named(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's entries with the model's names, if most names do not match.

    The file's names may be detectron2's, or the numbers of `nn.Sequential`.
    """
    own = module.state_dict()
    found, *_ = _paired(own, state)
    if 2 * len(found) >= len(own):
        return dict(state)
    if has_caffe2_names(state):
        return from_caffe2(state)
    if _has_detectron2_names(state):
        return {torchvision_name(key): value for key, value in state.items()}
    bare = [key.removeprefix("net.").removeprefix("model.") for key in own]
    return name_children(bare, state) or dict(state)


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Convert the weight of a first convolution from `[O, C, k, k]` to `[O, in_channels, k, k]`, as timm does.

    For one channel the C channels are added up. For more channels they are repeated in turn and scaled by
    C / in_channels, so that the response keeps its magnitude.
    """
    if in_channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeats = -(-in_channels // weight.shape[1])
    wide = weight.float().repeat(1, repeats, 1, 1)[:, :in_channels]
    return (wide * (weight.shape[1] / in_channels)).to(weight.dtype)


def _flipped(value: Tensor) -> Tensor:
    """Return the weight of a convolution on images with its input channels in reverse order; others unchanged."""
    return value.flip(1) if value.ndim == 4 and value.shape[1] == 3 else value


def _fill(
    module: nn.Module,
    state: dict[str, Tensor],
    source: str,
    ignore: tuple[str, ...],
    adapt_input: str | None,
    minimum: float,
) -> LoadReport:
    own = module.state_dict()
    # 1. Match names: entry of the model -> key of the file.
    found, rest, prefix, others = _paired(own, state)
    ignored = [k for k in rest if k.removeprefix(prefix).startswith(ignore)]
    beside = left_out([k for k in rest if k not in ignored and not k.endswith(COUNTER)], prefix, others)
    # 2. Match shapes.
    fitted, reshaped, wrong = {}, [], []
    for key, file_key in found.items():
        value = state[file_key]
        if value.shape == own[key].shape:
            fitted[key] = value
        elif _is_input(module, key, own[key], value, adapt_input):
            fitted[key] = adapt_channels(value, own[key].shape[1])
            reshaped.append(key)
        elif key.startswith(ignore):
            ignored.append(file_key)
        else:
            wrong.append(f"{key} is {list(value.shape)} in the file and {list(own[key].shape)} in the model")
    if wrong:
        if wrong[0].startswith("conv1.weight is ") and module.state_dict()["conv1.weight"].shape[2:] != (3, 3):
            wrong[0] += " (the file's network has another stem, such as that for CIFAR or a deep one)"
        raise UserError(f"{source}: does not fit {_name(module)}: {first_names(wrong, 3)}; give a file of this model")
    # 3. Report, and refuse a file that fills too little.
    report = LoadReport(
        source=source,
        matched=_without_counters(fitted),
        missing=_without_counters(k for k in own if k not in fitted),
        unexpected=_without_counters(k for k in rest if k not in ignored and k not in beside),
        reshaped=tuple(reshaped),
        ignored=_without_counters(ignored),
        prefix=prefix,
        left_out=beside,
    )
    _check_complete(module, report, minimum)
    # 4. Load. `strict` is off because step 3 has checked and reported the missing entries.
    module.load_state_dict(fitted, strict=False)
    return report


def _check_complete(module: nn.Module, report: LoadReport, minimum: float) -> None:
    added = module.added if isinstance(module, Backbone) else ()
    total = len(report.matched) + sum(not name.startswith(tuple(added)) for name in report.missing)
    if len(report.matched) < minimum * total:
        raise UserError(
            f"{_name(module)}: at least {minimum:.0%} of the model's entries must be in the weights, but "
            f"the load report is: {report}; give a file of this model, or weights=None"
        )


def _has_detectron2_names(state: Mapping[str, Tensor]) -> bool:
    return any(key == "stem.conv1.weight" or key.endswith(".stem.conv1.weight") for key in state)


def _paired(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[dict[str, str], list[str], str, list[str]]:
    """Find for each entry of a model the key of a file. Keys may have a prefix, such as "model.backbone.".

    Returns:
        Entry of the model -> key of the file; the other keys of the file; the prefix; the prefixes of other copies.
    """
    # Index every name that an entry of the model may have in a file. The entry's own name has precedence.
    index = {alias: key for key in reversed(list(own)) for alias in aliases(key)}
    index.update((key, key) for key in own)
    prefix = best_prefix(index, state, _modern)
    found: dict[str, str] = {}
    for file_key in state:
        key = index.get(_modern(file_key[len(prefix) :])) if file_key.startswith(prefix) else None
        if key is not None:
            found.setdefault(key, file_key)
    used = set(found.values())
    return found, [k for k in state if k not in used], prefix, other_prefixes(index, state, prefix, _modern)


def _modern(key: str) -> str:
    """Return today's name of a key. Old torchvision files of DenseNet write "norm.1" instead of "norm1"."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


def _is_input(module: nn.Module, key: str, own: Tensor, value: Tensor, adapt_input: str | None) -> bool:
    """Return whether an entry is a convolution on the input whose shape differs only in the input channels."""
    if own.ndim != 4 or value.ndim != 4 or own.shape[0] != value.shape[0] or own.shape[2:] != value.shape[2:]:
        return False
    if adapt_input is not None:
        return key == adapt_input
    # Decide by shape: some models have two convolutions on the input, and no library lists them.
    channels = module.in_channels if isinstance(module, Backbone) else 3
    return channels != 3 and (own.shape[1], value.shape[1]) == (channels, 3)


def _without_counters(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(k for k in keys if not k.endswith(COUNTER))


def _name(module: nn.Module) -> str:
    return module.name if isinstance(module, Backbone) else type(module).__name__
