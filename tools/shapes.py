"""The embedded dataset: coloured shapes on textured backgrounds, as an ordinary COCO detection dataset.

    python tools/shapes.py                                  into the cache, where the training scripts find it
    python tools/shapes.py --output DIR --train 500 --seed 7

The files are a pure function of the options: the same bytes on each generation. Layout:
annotations/instances_train.json, annotations/instances_val.json, train/*.jpg, val/*.jpg.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # tools/ itself must not shadow other modules

from tools.synthetic.shapes import generate, prepare


@dataclass(frozen=True)
class ShapesOptions:
    """What to generate.

    Args:
        output: folder of the dataset; a folder in the cache when absent.
        train: number of training images.
        val: number of validation images.
        size: width and height of an image, in pixels.
        seed: another seed, other images.
    """

    output: Path | None = None
    train: int = 3000
    val: int = 200
    size: int = 128
    seed: int = 0


@dataclass(frozen=True)
class ScriptOptions:
    """The option groups of this script."""

    shapes: ShapesOptions = field(default_factory=ShapesOptions)


def main() -> None:
    """Generate the dataset and say where it lies."""
    from tools.cli.parsing import parse

    options = parse(ScriptOptions, description="Write the embedded shapes dataset.").shapes
    generator = prepare if options.output is None else partial(generate, options.output)
    print(generator(train=options.train, val=options.val, size=options.size, seed=options.seed))


if __name__ == "__main__":
    from tools.cli.ending import run

    run(main)
