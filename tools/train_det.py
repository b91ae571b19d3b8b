"""Train Faster R-CNN on labelled images in the layout of most annotation tools, or on the built-in shapes.

    python tools/train_det.py                                  # built-in shapes, no network needed
    python tools/train_det.py --data coco --backbone resnet50  # COCO in its own layout, ImageNet weights
    python tools/train_det.py --layout list                    # the layouts that --data may have
    python tools/train_det.py --data VOC2007 --train-split trainval --val-split test
    torchrun --nproc_per_node 8 tools/train_det.py --data coco # the same on eight GPUs
    python tools/train_det.py --resume --output RUN            # continue a run that was stopped
    python tools/train_det.py --eval-only --data coco --backbone resnet50 --weights coco
    python tools/train_det.py --eval-only --data coco --weights RUN/model.safetensors --refine --test-flip

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
from tools.tasks.options import COMMANDS, TrainDetectorOptions

if TYPE_CHECKING:
    from tools.engine.rehearsal import Rehearsal


def main(argv: Sequence[str] | None = None) -> Rehearsal | None:
    """Parse the command line and run the training. With `--dry-run` return the time of a few steps."""
    command = COMMANDS["train_det"]
    options = parse(
        TrainDetectorOptions,
        description=__doc__,
        argv=argv,
        recipe=command.recipe,
        further=command.further,
        listing=partial(describe, "recipes", command.task),
        config_file=partial(config_file, command.task),
    )

    # torch and other large libraries are imported only after parsing, so that --help is quick.
    from detection.data.folders import list_layouts
    from tools.engine.run import run
    from tools.tasks.detection import DetectionTask

    if options.data.layout == "list":
        options.plugins.load()
        list_layouts(options.data.layout)
    return run(DetectionTask(), options)


if __name__ == "__main__":
    ending.run(main)
