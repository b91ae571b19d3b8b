"""Train a fully convolutional network on label maps, or on the built-in shapes, and measure mIoU.

    python tools/train_seg.py                                       # built-in shapes, no network needed
    python tools/train_seg.py --data camvid --recipe camvid --backbone resnet50
    python tools/train_seg.py --data coco --recipe coco --classes voc
    torchrun --nproc_per_node 8 tools/train_seg.py --data coco --recipe coco --classes voc
    python tools/train_seg.py --eval-only --data camvid --val-split test --weights RUN/model.safetensors
    python tools/train_seg.py --resume --output RUN

`--batch-size` is the number of images per optimizer step over all processes. Without `--lr` the learning rate is scaled
to it by the rule that the plan prints.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from tools.cli import ending
from tools.cli.packaged import config_file, describe
from tools.cli.parsing import parse
from tools.tasks.options import COMMANDS, TrainSegmenterOptions

if TYPE_CHECKING:
    from tools.engine.rehearsal import Rehearsal


def main(argv: Sequence[str] | None = None) -> Rehearsal | None:
    """Parse the command line and run the training. With `--dry-run` return the time of a few steps."""
    command = COMMANDS["train_seg"]
    options = parse(
        TrainSegmenterOptions,
        description=__doc__,
        argv=argv,
        recipe=command.recipe,
        further=command.further,
        listing=partial(describe, "recipes", command.task),
        config_file=partial(config_file, command.task),
    )

    # torch and other large libraries are imported only after parsing, so that --help is quick.
    from tools.engine.run import run
    from tools.tasks.segmentation import SegmentationTask

    return run(SegmentationTask(), options)


if __name__ == "__main__":
    ending.run(main)
