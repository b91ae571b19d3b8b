"""List backbones: size, cost, features, and the weights that are published for them.

    python tools/list_backbones.py                       # ours
    python tools/list_backbones.py "resnet*" --json
    python tools/list_backbones.py "torchvision/vgg*"
    python tools/list_backbones.py "timm/convnext*"

Nothing is downloaded, and nets are built without memory for their numbers. Parameters and GFLOPs are those of the
classification net: 1000 classes and 224 pixels (or the net's own size, where it takes no other), 10 and 32 for the
CIFAR nets. A GFLOP is a thousand million multiply-adds, as in the paper's table 1.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions

if TYPE_CHECKING:
    from backbones.base import FeatureInfo
    from backbones.weights.catalogue import Published

MANY = 40  # nets, above which building them all would take minutes
IMAGENET, CIFAR = (1000, 224), (10, 32)  # classes, and side of the images in pixels


@dataclass
class ListOptions:
    """What to list.

    Args:
        pattern: names with wildcards: ours, "torchvision/..." or "timm/...".
        json: print JSON instead of a table.
        costs: build the nets, for parameters, GFLOPs and features; auto does for up to 40 nets.
    """

    pattern: str = field(default="*", metadata=POSITIONAL)
    json: bool = False
    costs: Literal["auto", "yes", "no"] = "auto"


@dataclass
class Options:
    """The script's option groups."""

    listing: ListOptions
    plugins: PluginOptions


@dataclass
class Entry:
    """One net; what was not asked for, or cannot be had, is None (`features`: a net without a pyramid)."""

    name: str
    parameters: int | None
    gflops: float | None
    image_size: int | None
    features: tuple[FeatureInfo, ...] | None
    weights: list[Published]


def main(argv: Sequence[str] | None = None) -> None:
    """Look the names up, describe each, print."""
    groups = parse(Options, description=__doc__.splitlines()[0], argv=argv)
    options = groups.listing

    import backbones

    groups.plugins.load()
    found = backbones.names(options.pattern)
    if not found:
        raise UserError(
            f"{options.pattern!r}: no backbone bears such a name; ours are listed without a pattern, and others by "
            "'torchvision/*' and 'timm/*'"
        )
    costs = options.costs == "yes" or (options.costs == "auto" and len(found) <= MANY)
    if not costs and options.costs == "auto":
        print(f"{len(found)} nets: listed without costs and features, which take --costs yes", file=sys.stderr)
    entries = [describe(name, costs=costs) for name in found]
    print(json.dumps([asdict(entry) for entry in entries], indent=2) if options.json else table(entries))


def describe(name: str, *, costs: bool = True) -> Entry:
    """What is known of a net; with `costs` it is built, on the meta device."""
    from backbones.weights.catalogue import published

    library, _, arch = name.rpartition("/")
    if not costs and library:
        return Entry(name, None, None, None, None, published((library, arch)))
    features, source, cifar = _features(name)
    weights = published((library, arch) if library else source)
    if not costs:
        return Entry(name, None, None, None, features, weights)
    classes, size = CIFAR if cifar else IMAGENET
    sizes = dict.fromkeys([size, *(each.size for each in weights)])
    return Entry(name, *_cost(name, classes, tuple(sizes)), features, weights)


def table(entries: Sequence[Entry]) -> str:
    """A line a net, and one for each of its published weights; * marks those that weights="imagenet" means."""
    width = max(len(entry.name) for entry in entries)
    lines = [f"{'name':<{width}}  {'params':>8}  {'GFLOPs':>7}  {'size':>4}  features (channels/stride)"]
    for entry in entries:
        count = "-" if entry.parameters is None else f"{entry.parameters / 1e6:.2f} M"
        gflops = "-" if entry.gflops is None else f"{entry.gflops:.2f}"
        maps = "  ".join(f"{f.name} {f.channels}/{f.stride}" for f in entry.features or ()) or "-"
        lines.append(f"{entry.name:<{width}}  {count:>8}  {gflops:>7}  {entry.image_size or '-':>4}  {maps}")
        lines += [f"    {_line(weights)}" for weights in entry.weights]
    return "\n".join(lines)


def _line(weights: Published) -> str:
    figures = [f"{k} {v:.2f} %" for k, v in (("top-1", weights.top1), ("top-5", weights.top5)) if v is not None]
    told = [f"{weights.tag}{'*' * weights.default}", *figures, f"at {weights.size}"]
    return "  ".join([*told, weights.licence or "licence not stated", weights.recipe or ""]).rstrip()


def _features(name: str) -> tuple[tuple[FeatureInfo, ...] | None, tuple[str, str] | None, bool]:
    """Features of a net, whose published weights fit it, and whether it is one of the CIFAR nets."""
    import backbones
    from tools.engine.cost import without_numbers

    try:
        with without_numbers(), redirect_stderr(io.StringIO()):  # where torch.fx cannot cut a net, it says so in code
            net = backbones.build(name, weights=None)
    except UserError:  # a net without a pyramid, which classifies all the same
        return None, None, False
    return net.feature_info, net.source, net.feature_info[0].name == "c0"


def _cost(name: str, classes: int, sizes: Sequence[int]) -> tuple[int | None, float | None, int | None]:
    """Parameters, GFLOPs and the first of the sizes that the net takes; None for what it does not give on no data."""
    import classification
    from tools.engine.cost import macs, parameters, without_numbers

    # A library's net may want real numbers, and says so in as many ways as there are nets.
    try:
        with without_numbers():
            net: Any = classification.build(name, classes)
    except Exception:
        return None, None, None
    for size in sizes:
        with suppress(Exception):
            return parameters(net), macs(net, size) / 1e9, size
    return parameters(net), None, None


if __name__ == "__main__":
    run(main)
