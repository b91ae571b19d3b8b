"""Weights: which file a word means, how its entries meet the net's, and what matched."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from backbones.base import Backbone
from backbones.errors import UserError
from backbones.fetch import read_state, timm_state, torchvision_state

_REQUIRED = 0.9  # of the backbone's entries, below which a file is taken for the wrong one
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
# Whatever wrapped the net when it was saved; the whole detector's trunk is called backbone.body by torchvision.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.body.", "backbone.", "net.")


@dataclass(frozen=True)
class LoadReport:
    """What a set of weights gave to a net, by names of entries (num_batches_tracked aside).

    matched: filled from the file; missing: in the net, not in the file; unexpected: in the file, not in the net (a
    classifier, or stages that were left out); reshaped: those of `matched` adapted to another number of channels.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    source: str = ""

    def __str__(self) -> str:
        parts = [f"matched {len(self.matched)} of {len(self.matched) + len(self.missing)}"]
        parts += [_figure(kind, getattr(self, kind)) for kind in ("missing", "unexpected", "reshaped")]
        return f"{self.source}: {', '.join(parts)}"

    def with_head(self, loaded: bool) -> "LoadReport":
        """The report of a classification net: its fc.weight and fc.bias were loaded, or not."""
        fc = ("fc.bias", "fc.weight")
        if not loaded:
            return replace(self, missing=self.missing + fc)
        rest = tuple(k for k in self.unexpected if k not in fc)
        return replace(self, matched=self.matched + fc, unexpected=rest)


def load(backbone: Backbone, weights: str | os.PathLike[str]) -> LoadReport:
    """Fill a backbone in place from "imagenet", a named tag or a file.

    Raises:
        UserError: the weights cannot be had, a shape differs, or under 90 % of the net's entries match.
    """
    state, source = state_for(backbone, weights)
    return load_state(backbone, state, source=source)


def state_for(backbone: Backbone, weights: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """The entries that `weights` names, wrappers' prefixes taken off, and where they are from."""
    word = os.fspath(weights)
    if not isinstance(weights, str) or _is_path(word):
        return unwrapped(read_state(Path(word))), word
    if backbone.source is None:
        raise UserError(
            f"{backbone.name}: nobody publishes weights {word!r} for it; take weights=None or weights=FILE"
        )
    library, arch = backbone.source
    state = timm_state(arch, word) if library == "timm" else torchvision_state(arch, word)
    return state, f"{library} {arch} {word}"


def load_state(backbone: Backbone, state: dict[str, Tensor], *, source: str) -> LoadReport:
    """Copy entries into a backbone in place, under its own names or torchvision's or timm's; see `load`."""
    own = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    found: dict[str, Tensor] = {}
    unexpected = []
    for key, value in state.items():
        name = next((a for a in _aliases(key) if a in own), None)
        if name is not None:
            found[name] = value
        elif not key.endswith("num_batches_tracked"):
            unexpected.append(key)
    fitted, reshaped = _fitted(backbone, own, found, source)
    missing = tuple(k for k in own if k not in found)
    report = LoadReport(tuple(fitted), missing, tuple(sorted(unexpected)), tuple(reshaped), source)
    if len(fitted) < _REQUIRED * len(own):
        raise UserError(
            f"{backbone.name}: the weights are not this net's, {report}; "
            f"under {_REQUIRED:.0%} is an error; give a file of this net, or weights=None"
        )
    # Completeness was judged above, so strict would say it twice.
    backbone.load_state_dict(fitted, strict=False)
    return report


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """First-convolution weight [O, 3, k, k] -> [O, in_channels, k, k], as timm does it.

    One channel takes the sum over RGB; more repeat them, scaled so that the response keeps its size.
    """
    if in_channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeats = -(-in_channels // weight.shape[1])
    wide = weight.float().repeat(1, repeats, 1, 1)[:, :in_channels]
    return (wide * (weight.shape[1] / in_channels)).to(weight.dtype)


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take wrappers' prefixes off: "module.backbone.conv1.weight" -> "conv1.weight"; the rest stays as it is."""
    for _ in range(4):
        bare = {_bare(key): value for key, value in state.items()}
        if len(bare) < len(state) or bare.keys() == state.keys():
            break
        state = bare
    return state


def _bare(key: str) -> str:
    return next((key[len(p) :] for p in _PREFIXES if key.startswith(p)), key)


def _aliases(key: str) -> Iterator[str]:
    """Names under which an entry may live in a backbone, most literal first."""
    # densenet files of old torchvision write "norm.1" for "norm1"
    dense = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
    for name in (key, dense):
        yield name
        yield f"net.{name}"
        yield f"net.{name.replace('.', '_', 1)}"  # timm flattens sequences: stages.0 is stages_0
        yield f"net.model.{name}"


def _fitted(
    backbone: Backbone, own: dict[str, Tensor], found: dict[str, Tensor], source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The entries in the net's shapes, and the names of those that had to be adapted."""
    fitted, reshaped, wrong = {}, [], []
    for key, value in found.items():
        if value.shape == own[key].shape:
            fitted[key] = value
        elif _is_first_conv(own[key], value, backbone.in_channels):
            fitted[key] = adapt_channels(value, backbone.in_channels)
            reshaped.append(key)
        else:
            wrong.append(f"{key} is {list(value.shape)} in the file and {list(own[key].shape)} in the net")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{source}: not the weights of {backbone.name}: {'; '.join(wrong[:3])}{more}; give this net's file"
        )
    return fitted, reshaped


def _is_first_conv(own: Tensor, value: Tensor, in_channels: int) -> bool:
    if in_channels == 3 or own.ndim != 4 or value.ndim != 4:
        return False
    return value.shape[1] == 3 and own.shape == (value.shape[0], in_channels, *value.shape[2:])


def _is_path(word: str) -> bool:
    return word.endswith(_SUFFIXES) or os.sep in word or os.path.exists(word)


def _figure(kind: str, names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")
