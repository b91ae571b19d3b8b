"""Train a fully convolutional network on label maps, or on the built-in shapes, and measure mIoU.

    python tools/train_seg.py                                       # built-in shapes, no network needed
    python tools/train_seg.py --data camvid --recipe camvid --backbone resnet50
    python tools/train_seg.py --data coco --recipe coco --classes voc
    torchrun --nproc_per_node 8 tools/train_seg.py --data coco --recipe coco --classes voc
    python tools/train_seg.py --eval-only --data camvid --val-split test --weights RUN/model.safetensors
    python tools/train_seg.py --resume --output RUN

`--batch-size` counts the images of one optimizer step over all processes; without `--lr` the learning rate follows it
by the rule that the plan prints.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from tools.cli.ending import run
from tools.cli.parsing import parse, to_dict
from tools.tasks.segmentation import Measure, Options, build, meta, recipe, show_plan

if TYPE_CHECKING:
    from tools.engine.rehearsal import Rehearsal


def main(argv: Sequence[str] | None = None) -> Rehearsal | None:
    """Parse, build, fit, report; of a dry run, what a few steps told."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv, recipe=recipe)

    import numpy as np

    from backbones.common.loading import loader
    from segmentation.data.dataset import collate
    from tools.engine.bad_images import BadImages
    from tools.engine.resume import fingerprints
    from tools.engine.run import Experiment
    from tools.processes import distributed

    experiment = Experiment.start(train=options.train, run=options.run, config=to_dict(options), prefix="seg")
    bad = BadImages(experiment.folder, skip=options.run.on_bad_image == "skip", seed=options.run.seed)
    val, train, model = distributed.on_all(lambda: build(options))
    experiment.meta = {**meta(options, val.source, model), "data": fingerprints(train, val)}
    groups = np.zeros(len(train or val), np.int64)
    accumulate = options.train.accumulate
    batches = distributed.TrainBatches(groups, options.train.batch_size, seed=options.run.seed, accumulate=accumulate)
    training = experiment.training(model, steps_per_epoch=batches.steps)
    show_plan(experiment, options, train, val, model, batches.steps)
    if train:
        batched = loader(bad.replacing(train), workers=experiment.workers, collate=collate, batch_sampler=batches)
        if options.run.dry_run:
            return experiment.rehearse(training, batched, batches=batches)
    experiment.open_folder()
    measure = Measure(experiment, options, val, bad)
    results: dict[str, Any] = {}
    if train:
        results = experiment.fit(training, batched, batches=batches, evaluate=measure, metric="mIoU")
    costs = experiment.costs(model, options.data.crop_size)
    measure.report(training.evaluated, results or measure(training.evaluated), costs)
    distributed.stop()
    return None


if __name__ == "__main__":
    run(main)
