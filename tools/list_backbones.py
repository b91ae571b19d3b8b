"""List backbones: size, cost, features and published weights.

    python tools/list_backbones.py                       # the project's own backbones
    python tools/list_backbones.py "resnet*" --json
    python tools/list_backbones.py "torchvision/vgg*"
    python tools/list_backbones.py "timm/convnext*"

Nothing is downloaded, and models are built without memory for their parameters. Parameters and GFLOPs are those of the
classification model: 1000 classes and 224 pixels (or the model's own size, if it accepts no other), 10 and 32 for the
CIFAR models. A GFLOP is a thousand million multiply-adds, as in the paper's table 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions

if TYPE_CHECKING:
    from backbones.weights.catalogue import Published
    from tools.analysis.listing import BackboneEntry

MANY = 40  # building more models than this takes minutes


@dataclass
class ListOptions:
    """Backbones to list, and what to show of each.

    Args:
        pattern: names with wildcards: the project's own, "torchvision/..." or "timm/...".
        json: print JSON instead of a table.
        costs: build the models for parameters, GFLOPs and features; auto builds up to 40 models.
    """

    pattern: str = field(default="*", metadata=POSITIONAL)
    json: bool = False
    costs: Literal["auto", "yes", "no"] = "auto"


@dataclass
class ListGroups:
    """The option groups of the command."""

    listing: ListOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table of the backbones whose names match the pattern."""
    groups = parse(ListGroups, description=__doc__, argv=argv)
    options = groups.listing

    import backbones
    from tools.analysis.listing import describe  # imports torch

    groups.plugins.load()
    found = backbones.names(options.pattern)
    if not found:
        raise UserError(
            f"{options.pattern!r}: matches no backbone; leave the pattern out to list the project's own backbones, or "
            "use 'torchvision/*' or 'timm/*' for those of a library"
        )
    costs = options.costs == "yes" or (options.costs == "auto" and len(found) <= MANY)
    if not costs and options.costs == "auto":
        print(f"{len(found)} models: listed without costs and features; add --costs yes for them", file=sys.stderr)
    entries = [describe(name, costs=costs) for name in found]
    print(json.dumps([asdict(entry) for entry in entries], indent=2) if options.json else table(entries))


def table(entries: Sequence[BackboneEntry]) -> str:
    """Return a text table: a line for each backbone and each of its published weights, and the sources of accuracies.

    An asterisk marks the weights that the name "imagenet" means.
    """
    width = max(len(entry.name) for entry in entries)
    lines = [f"{'name':<{width}}  {'params':>8}  {'GFLOPs':>7}  {'size':>4}  features (channels/stride)"]
    for entry in entries:
        count = "-" if entry.parameters is None else f"{entry.parameters / 1e6:.2f} M"
        gflops = "-" if entry.gflops is None else f"{entry.gflops:.2f}"
        features = "  ".join(f"{f.name} {f.channels}/{f.stride}" for f in entry.features or ()) or "-"
        lines.append(f"{entry.name:<{width}}  {count:>8}  {gflops:>7}  {entry.image_size or '-':>4}  {features}")
        lines += [f"    {_weights_line(weights)}" for weights in entry.weights]
    sources = dict.fromkeys(weights.measured for entry in entries for weights in entry.weights if weights.measured)
    lines += [f"accuracies on ImageNet, at the size that follows them: {', '.join(sources)}"] if sources else []
    return "\n".join(lines)


def _weights_line(weights: Published) -> str:
    accuracies = (("top-1", weights.top1), ("top-5", weights.top5))
    texts = [f"{name} {value:.2f} %" for name, value in accuracies if value is not None]
    parts = [f"{weights.tag}{'*' * weights.default}", *texts, f"at {weights.size}"]
    return "  ".join([*parts, weights.licence or "licence not stated", weights.recipe or ""]).rstrip()


if __name__ == "__main__":
    run(main)
