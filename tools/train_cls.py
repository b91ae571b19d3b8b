"""Train a backbone as a classifier on class folders or tar shards, or on the built-in shapes, and measure its accuracy.

    python tools/train_cls.py                                            # built-in shapes, no network needed
    python tools/train_cls.py --data imagenet --backbone resnet50 --recipe paper
    torchrun --nproc_per_node 8 tools/train_cls.py --data imagenet --backbone resnet50 --recipe modern
    python tools/train_cls.py --data cifar10 --backbone resnet56 --recipe cifar
    python tools/train_cls.py --eval-only --data imagenet --backbone resnet50 --weights imagenet --test-crops ten
    python tools/train_det.py --data coco --backbone resnet50 --weights runs/cls-20260101-120000/model.safetensors

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
from tools.tasks.classification import Measure, Options, build, build_batches, build_train, meta, recipe, show_plan

if TYPE_CHECKING:
    from tools.engine.rehearsal import Rehearsal


def main(argv: Sequence[str] | None = None) -> Rehearsal | None:
    """Parse, build, fit, report; of a dry run, what a few steps told."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv, recipe=recipe)

    from tools.engine.bad_images import BadImages
    from tools.engine.run import Experiment
    from tools.processes import distributed

    experiment = Experiment.start(train=options.train, run=options.run, config=to_dict(options), prefix="cls")
    bad = BadImages(experiment.folder, skip=options.run.on_bad_image == "skip", seed=options.run.seed)
    source, model = distributed.on_all(lambda: build(options, bad))
    experiment.meta = {**meta(options, source, model), "data": source.fingerprints()}
    batches = build_batches(options, source)
    training = experiment.training(model, steps_per_epoch=batches.steps)
    show_plan(experiment, options, source, model, batches.steps)
    measure = Measure(experiment, options, source, bad)
    if not options.run.eval_only:
        loader = build_train(experiment, options, source, batches)
        if options.run.dry_run:
            return experiment.rehearse(training, loader, batches=batches)
    experiment.open_folder()
    results: dict[str, Any] = {}
    if not options.run.eval_only:
        results = experiment.fit(training, loader, batches=batches, evaluate=measure, metric="top1")
    seen = experiment.meta["input"]
    costs = experiment.costs(model, seen["crop_size"], seen["in_channels"])
    measure.report(results or measure(training.evaluated), costs)
    distributed.stop()
    return None


if __name__ == "__main__":
    run(main)
