"""Turn class folders into tar shards, which stream to many machines faster than single files.

    python tools/make_shards.py --data imagenet --output imagenet-shards
    python tools/make_shards.py --data imagenet --output imagenet-shards --shard-size 2000 --seed 1

`--data` holds train/CLASS/* and val/CLASS/*. `--output` gets train-*.tar, val-*.tar and `shards.json`, which lists the
classes and the number of samples in each shard; copy the folder to a web server or an object store as it is. Files are
copied byte for byte; the same options give the same bytes again. The training images are shuffled, so that any few
shards hold all classes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # tools/ itself must not shadow other modules

from backbones.errors import require
from classification.data.shard_writer import INDEX, make_shards
from tools.cli.ending import run
from tools.cli.parsing import parse


@dataclass
class ShardOptions:
    """What to make of what.

    Args:
        data: folder with train/CLASS/* and val/CLASS/*.
        output: folder for the shards; new or empty.
        shard_size: images in a shard; the last one of a split has the rest.
        seed: of the order of the training images.
    """

    data: str
    output: str
    shard_size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.shard_size > 0, "shard_size", self.shard_size, "must be above 0")
        require(self.seed >= 0, "seed", self.seed, "must be 0 or above")


@dataclass
class Options:
    """The option groups of this script."""

    shards: ShardOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, make, report."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv).shards
    counts = make_shards(Path(options.data), Path(options.output), shard_size=options.shard_size, seed=options.seed)
    for split, shards in counts.items():
        print(f"{split}: {sum(shards.values())} images in {len(shards)} shards")
    print(f"shards and {INDEX} are in {options.output}")


if __name__ == "__main__":
    run(main)
