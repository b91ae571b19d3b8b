"""Train Faster R-CNN on a data set in COCO's, VOC's or YOLO's layout, or on the built-in shapes, and measure COCO AP.

    python tools/train_det.py                                  # built-in shapes, no network needed
    python tools/train_det.py --data coco --backbone resnet50  # COCO in its own layout, ImageNet weights
    python tools/train_det.py --data VOC2007 --train-split trainval --val-split test
    torchrun --nproc_per_node 8 tools/train_det.py --data coco # the same on eight GPUs
    python tools/train_det.py --resume --output RUN            # go on where a run was stopped
    python tools/train_det.py --eval-only --data coco --backbone resnet50 --weights coco
    python tools/train_det.py --eval-only --data coco --weights RUN/model.safetensors --refine --test-flip

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
from tools.tasks.detection import Measure, Options, build, meta, recipe, show_plan

if TYPE_CHECKING:
    from tools.engine.rehearsal import Rehearsal


def main(argv: Sequence[str] | None = None) -> Rehearsal | None:
    """Parse, build, fit, report; of a dry run, what a few steps told."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv, recipe=recipe)

    from backbones.common.loading import loader
    from detection.data.dataset import collate
    from tools.engine.bad_images import BadImages
    from tools.engine.resume import fingerprints
    from tools.engine.run import Experiment
    from tools.processes import distributed

    experiment = Experiment.start(train=options.train, run=options.run, config=to_dict(options), prefix="det")
    bad = BadImages(experiment.folder, skip=options.run.on_bad_image == "skip", seed=options.run.seed)
    val, train, model = distributed.on_all(lambda: build(options))
    experiment.meta = {**meta(options, val.annotations, model), "data": fingerprints(train, val)}
    groups = (train or val).aspect_groups()
    accumulate = options.train.accumulate
    rare = options.data.repeat_threshold
    batches = distributed.TrainBatches(
        groups,
        options.train.batch_size,
        seed=options.run.seed,
        accumulate=accumulate,
        repeats=train.repeat_factors(rare) if train and rare else None,
    )
    training = experiment.training(model, steps_per_epoch=batches.steps)
    measure = Measure(experiment, options, val, bad)
    show_plan(experiment, options, train, val, model, batches.steps)
    if train:
        batched = loader(bad.replacing(train), workers=experiment.workers, collate=collate, batch_sampler=batches)
        if options.run.dry_run:
            return experiment.rehearse(training, batched, batches=batches)
    experiment.open_folder()
    results: dict[str, Any] = {}
    if train:
        results = experiment.fit(training, batched, batches=batches, evaluate=measure, metric="AP")
    measure.report(training.evaluated, results or measure(training.evaluated), experiment.costs(model))
    distributed.stop()
    return None


if __name__ == "__main__":
    run(main)
