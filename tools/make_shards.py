"""Convert class folders to tar shards, which many machines read faster than single files.

    python tools/make_shards.py --data imagenet --output imagenet-shards
    python tools/make_shards.py --data imagenet --output imagenet-shards --shard-size 2000 --seed 1

`--data` holds train/CLASS/* and val/CLASS/*, or is a CSV file or another layout of classes with both splits. The
command writes train-*.tar, val-*.tar and `shards.json` to `--output`.
`shards.json` lists the classes and the number of samples in each shard. Copy the folder to a web server or an object
store as it is. Image files are copied byte for byte, and the same options always give the same shards. The training
images are shuffled, so that a few shards already contain all classes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.category_options import CategoryOptions
from backbones.errors import counted, require
from tools.cli.ending import run
from tools.cli.parsing import parse


@dataclass
class ShardOptions:
    """Class folders to convert, and where to write the shards.

    Args:
        data: folder or CSV file of classes with the splits train and val, such as train/CLASS/* and val/CLASS/*.
        output: folder for the shards; it must be new or empty.
        shard_size: images per shard; the last shard of a split has the remaining images.
        seed: seed of the order of the training images.
    """

    data: str
    output: str
    shard_size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.shard_size > 0, "shard_size", self.shard_size, "must be above 0")
        require(self.seed >= 0, "seed", self.seed, "must be 0 or above")


@dataclass
class ShardGroups:
    """The option groups of make_shards.py."""

    shards: ShardOptions
    categories: CategoryOptions = field(default_factory=CategoryOptions)

    def __post_init__(self) -> None:
        self.categories.require_images()


def main(argv: Sequence[str] | None = None) -> None:
    """Write the shards; print the number of shards and images of each split."""
    groups = parse(ShardGroups, description=__doc__, argv=argv)
    options = groups.shards

    from backbones.common.listing import describe_passed_over  # imports OpenCV
    from classification.data.shard_writer import INDEX, make_shards

    made = make_shards(
        Path(options.data),
        Path(options.output),
        shard_size=options.shard_size,
        seed=options.seed,
        categories=groups.categories,
    )
    for split, shards in made.counts.items():
        others = describe_passed_over(made.passed_over[split])
        remarks = [f"files passed over: {others}"] if others else []
        text = "".join(f"; {remark}" for remark in (*remarks, *made.notes[split]))
        print(f"{split}: {counted(sum(shards.values()), 'image')} in {counted(len(shards), 'shard')}{text}")
    print(f"shards and {INDEX} are in {options.output}")


if __name__ == "__main__":
    run(main)
