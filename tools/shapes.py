"""Generate the built-in shapes: coloured shapes on textured backgrounds, as a COCO detection data set.

    python tools/shapes.py                          # into the cache, where the training scripts find it
    python tools/shapes.py --output DIR --train 500 --seed 7
    python tools/shapes.py --crops --output DIR     # each object cut out of its image, for classification

The files are a pure function of the options: each generation gives the same bytes. The detection data set has
annotations/instances_train.json, annotations/instances_val.json, train/*.jpg and val/*.jpg. The crops are
train/CLASS/*.png and val/CLASS/*.png, 32x32 pixels, cut out of the detection data set in the cache.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.synthetic import crops, shapes


@dataclass(frozen=True)
class ShapesOptions:
    """Folder and size of the data set to generate.

    Args:
        output: folder to create; absent: a folder in the cache.
        train: number of training images.
        val: number of validation images.
        size: width and height of an image in pixels.
        seed: seed of the random generator; another seed gives other images.
        crops: write each object as a 32x32 image in a folder of its class instead, for classification.
    """

    output: Path | None = None
    train: int = 3000
    val: int = 200
    size: int = 128
    seed: int = 0
    crops: bool = False


@dataclass(frozen=True)
class ShapesGroups:
    """The option groups of the command."""

    shapes: ShapesOptions = field(default_factory=ShapesOptions)


def main(argv: Sequence[str] | None = None) -> None:
    """Generate the data set and print its folder."""
    options = parse(ShapesGroups, description=__doc__, argv=argv).shapes
    generate = _write_crops if options.crops else _write_shapes
    print(generate(options))


def _write_shapes(options: ShapesOptions) -> Path:
    generate = shapes.prepare if options.output is None else partial(shapes.generate, options.output)
    return generate(train=options.train, val=options.val, size=options.size, seed=options.seed)


def _write_crops(options: ShapesOptions) -> Path:
    if options.output is None:
        return crops.prepare(train=options.train, val=options.val, size=options.size, seed=options.seed)
    if options.output.exists() and not (options.output.is_dir() and not any(options.output.iterdir())):
        raise UserError(f"--output {options.output}: exists already; name a new folder for the crops")
    source = shapes.prepare(train=options.train, val=options.val, size=options.size, seed=options.seed)
    return crops.generate(options.output.absolute(), source)


if __name__ == "__main__":
    run(main)
