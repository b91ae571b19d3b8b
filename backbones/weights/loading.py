"""Weights: which file a word means, how its entries meet a net's, and what matched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from backbones.base import Backbone
from backbones.errors import UserError
from backbones.weights.files import read_meta, read_state
from backbones.weights.published import fetch, timm_pretrained, timm_state, torchvision_state
from backbones.weights.report import LoadReport

__all__ = [
    "LoadReport",
    "adapt_channels",
    "fetch",
    "load",
    "load_state",
    "read_meta",
    "read_state",
    "state_for",
    "timm_pretrained",
    "timm_state",
    "torchvision_state",
]


_CLASSIFIERS = ("fc.", "classifier.", "head.", "linear.")


_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


# What training code wraps a net in; torchvision's detectors keep theirs under backbone.body.
_WRAPPED = re.compile(r"(?:module|_orig_mod|model|backbone|body|net|encoder)\.")


_COUNTER = "num_batches_tracked"


def load(
    module: nn.Module,
    weights: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    source: str | None = None,
    ignore: Sequence[str] = _CLASSIFIERS,
    adapt_input: str | None = None,
    minimum: float = 0.9,
) -> LoadReport:
    """Fill a net in place and say what matched; all or nothing.

    Args:
        module: a `Backbone`, or any net where `weights` holds entries.
        weights: entries by name; for a `Backbone` also "imagenet", a named tag or a file.
        source: where the entries are from, for the report.
        ignore: beginnings of classifier entries: reported apart, and left where their shape differs.
        adapt_input: key of the first convolution's weight, adapted to the net's input channels; by default,
            for a `Backbone` of other than three channels, every convolution on the input.
        minimum: share of the net's entries that must match.

    Raises:
        UserError: the weights cannot be had, a shape differs, or less than `minimum` matches.
    """
    if isinstance(weights, Mapping):
        state, found_at = dict(weights), "weights"
    else:
        state, found_at = state_for(module, weights)
    return _fill(module, state, source or found_at, tuple(ignore), adapt_input, minimum)


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> LoadReport:
    """`load` for entries that have been read already."""
    return load(module, state, source=source)


def state_for(module: nn.Module, weights: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """The entries that "imagenet", a tag or a file means for a backbone, and where they are from."""
    if not isinstance(weights, (str, os.PathLike)):
        raise UserError(f"weights={weights!r}: expected 'imagenet', a tag, a file or None")
    word = os.fspath(weights)
    if not isinstance(weights, str) or _is_path(word):
        return read_state(word), word
    published = module.source if isinstance(module, Backbone) else None
    if published is None:
        raise UserError(
            f"{_name(module)}: no published weights {word!r} exist for it; use weights=None (--weights none) or a file"
        )
    library, arch = published
    state = timm_state(arch, word) if library == "timm" else torchvision_state(arch, word)
    return state, f"{library} {arch} {word}"


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """First-convolution weight [O, C, k, k] -> [O, in_channels, k, k], as timm does it.

    One channel takes the sum over the C; more repeat them, scaled so that the response keeps its size.
    """
    if in_channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeats = -(-in_channels // weight.shape[1])
    wide = weight.float().repeat(1, repeats, 1, 1)[:, :in_channels]
    return (wide * (weight.shape[1] / in_channels)).to(weight.dtype)


def _fill(
    module: nn.Module,
    state: dict[str, Tensor],
    source: str,
    ignore: tuple[str, ...],
    adapt_input: str | None,
    minimum: float,
) -> LoadReport:
    own = module.state_dict()
    found, rest, prefix = _paired(own, state)
    ignored = [k for k in rest if k.removeprefix(prefix).startswith(ignore)]
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
            wrong.append(f"{key} is {list(value.shape)} in the file and {list(own[key].shape)} in the net")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{source}: not the weights of {_name(module)}: {'; '.join(wrong[:3])}{more}; give this net's file"
        )
    report = LoadReport(
        source=source,
        matched=_counted(fitted),
        missing=_counted(k for k in own if k not in fitted),
        unexpected=_counted(k for k in rest if k not in ignored),
        reshaped=tuple(reshaped),
        ignored=_counted(ignored),
    )
    _check_complete(module, report, minimum)
    # Completeness was judged above; the entries that are left out stand in the report.
    module.load_state_dict(fitted, strict=False)
    return report


def _check_complete(module: nn.Module, report: LoadReport, minimum: float) -> None:
    total = len(report.matched) + len(report.missing)
    if len(report.matched) < minimum * total:
        raise UserError(
            f"{_name(module)}: {report}; under {minimum:.0%} matched is an error: "
            "give a file of this net, or weights=None"
        )


def _paired(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[dict[str, str], list[str], str]:
    """Entries of the net -> keys of the file, the file's other keys, and the file's prefix.

    The prefix is the one, of those that look like a wrapper's, under which most of the net is found.
    """
    index = {alias: key for key in reversed(list(own)) for alias in _aliases(key)}
    index.update((key, key) for key in own)  # the literal name wins
    best: tuple[dict[str, str], str] = ({}, "")
    for prefix in sorted(_prefixes(state), key=len):
        found: dict[str, str] = {}
        for file_key in state:
            key = index.get(_modern(file_key[len(prefix) :])) if file_key.startswith(prefix) else None
            if key is not None:
                found.setdefault(key, file_key)
        if len(found) > len(best[0]):
            best = found, prefix
    used = set(best[0].values())
    return best[0], [k for k in state if k not in used], best[1]


def _prefixes(state: Mapping[str, Tensor]) -> set[str]:
    """All beginnings of keys that consist of wrappers' names: "", "model.", "model.backbone.", ..."""
    prefixes = {""}
    for key in state:
        end = 0
        while match := _WRAPPED.match(key, end):
            end = match.end()
            prefixes.add(key[:end])
    return prefixes


def _aliases(key: str) -> Iterator[str]:
    """Names under which an entry of a net may stand in a file: wrapped nets keep theirs under "net."."""
    for prefix in ("net.model.", "net."):
        if key.startswith(prefix):
            bare = key.removeprefix(prefix)
            yield bare
            # timm's feature lists flatten sequences: stages.0 becomes stages_0
            yield re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", bare)


def _modern(key: str) -> str:
    """Files of old torchvision densenets write "norm.1" for "norm1"."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


def _is_input(module: nn.Module, key: str, own: Tensor, value: Tensor, adapt_input: str | None) -> bool:
    """Whether an entry is the weight of a convolution on the input, different in the channels alone."""
    if own.ndim != 4 or value.ndim != 4 or own.shape[0] != value.shape[0] or own.shape[2:] != value.shape[2:]:
        return False
    if adapt_input is not None:
        return key == adapt_input
    # By shape, since some nets have two convolutions on the input and no list of them exists.
    channels = module.in_channels if isinstance(module, Backbone) else 3
    return channels != 3 and (own.shape[1], value.shape[1]) == (channels, 3)


def _counted(keys: Mapping[str, Tensor] | Iterator[str] | Sequence[str]) -> tuple[str, ...]:
    return tuple(k for k in keys if not k.endswith(_COUNTER))


def _name(module: nn.Module) -> str:
    return module.name if isinstance(module, Backbone) else type(module).__name__


def _is_path(word: str) -> bool:
    return word != "imagenet" and (word.endswith(_SUFFIXES) or os.sep in word or os.path.isfile(word))
