"""The sequence of a training run, the same for all tasks: from parsed options to the files in the run folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import cast

from torch import nn

from backbones.common import plugins
from backbones.common.files import JsonObject
from backbones.errors import UserError
from backbones.weights.exported import is_exported
from backbones.weights.files import read_meta
from backbones.weights.hub import PREFIX, resolve
from backbones.weights.sources import is_path, split_part
from tools.engine.bad_images import BadImages
from tools.engine.batches import Batch, Batches
from tools.engine.caching import cache_row, choose_cache, kept
from tools.engine.compiling import compile_parts
from tools.engine.cost import costs
from tools.engine.delivery import Delivery
from tools.engine.evaluation import Results
from tools.engine.experiment import Experiment
from tools.engine.measure import Measure
from tools.engine.options import TaskOptions
from tools.engine.plan import plan_rows, print_plan
from tools.engine.rehearsal import Rehearsal, rehearse
from tools.engine.run_folder import remove_checkpoints
from tools.engine.state import Training
from tools.engine.task import Data, Model, Options, Task, TrainedModule
from tools.processes import distributed


def run(task: Task[Options, Data, Model], options: Options) -> Rehearsal | None:
    """Train and evaluate a model with the given options of a training command.

    Returns:
        With `--dry-run` the measured time of a few steps, else None.

    Raises:
        UserError: an option, a file or the data are wrong. On several processes all raise it, and one prints it.
        Stopped: the run was stopped by a signal and can be resumed.
    """
    # Join the other processes, set seeds and threads, choose the run folder, import plugins.
    experiment = Experiment.start(options, prefix=task.prefix, fixed_size=task.fixed_size)
    # Decide what happens to images that cannot be read: an error, or another image and a record.
    bad = BadImages(experiment.folder, skip=options.run.on_bad_image == "skip", seed=options.run.seed)
    # Build data and model on every process. A user error of one process ends all of them.
    data, model = distributed.on_all(lambda: _build(task, options, bad))
    experiment.meta = _meta(task, options, data, model)
    # Decode each image once, with --cache.
    cache = choose_cache(options.run, experiment.folder)
    distributed.on_all(lambda: data.keep_decoded(cache))
    # Fix the order of the training images, and with it the number of steps.
    batches = task.batches(options, data)
    # Add optimizer, schedule and moving average, and restore them from the checkpoint with --resume.
    training = experiment.training(model, steps_per_epoch=batches.steps)
    # Print what will be trained.
    plan = task.plan(options, data, model, experiment.meta)
    parts = _compile(model, fixed_size=task.fixed_size) if _compiles(options) else ()
    rows = plan_rows(experiment, model, plan, steps_per_epoch=batches.steps, split=data.split, compiled=parts)
    rows.update(cache_row(cache))
    print_plan(rows)
    loader = None if options.run.eval_only else task.train_loader(experiment, options, data, batches, bad)
    if loader is not None and options.run.dry_run:
        # Time a few steps, and leave nothing behind.
        return _rehearse(training, loader, batches, options)
    measure, metric = task.measure(experiment, options, data, bad), task.metric(options, data)
    # Write files only from here on: everything that a user may have to correct was checked before.
    experiment.open_folder(data.split)
    results: Results = {}
    with experiment.tracking(training, results), kept(cache):
        if loader is not None:
            # Train, with evaluations, log and checkpoints on the way.
            results.update(experiment.fit(training, loader, batches=batches, evaluate=measure, metric=metric))
        # Deliver the best model of the run, or the last, and measure it.
        delivery = experiment.deliver(training) if loader is not None or experiment.run.resume else None
        _measure(experiment, training, measure, delivery, results)
        # Write results, predictions and pictures.
        facts = delivery.facts(training) if delivery else {}
        costs = _costs(experiment, model, task.example_shape(options, experiment.meta))
        measure.report(training.evaluated, results, {**costs, **facts})
    is_main = distributed.is_main()
    if delivery and is_main:
        print(delivery.describe(training, experiment.folder, metric))
    distributed.stop()
    if delivery and is_main and not options.run.keep_checkpoints and not options.run.eval_only:
        # model.safetensors may be another model than the best one, which then stays.
        remove_checkpoints(experiment.folder, best=delivery.is_best(training))
    return None


def _build(task: Task[Options, Data, Model], options: Options, bad: BadImages) -> tuple[Data, Model]:
    """Open the data and build the model."""
    if options.run.eval_only and not options.run.resume:
        _require_evaluable(options.model.weights, task.name)
    if not options.run.eval_only and is_exported(options.model.weights):
        raise UserError(
            f"--weights {options.model.weights}: an exported file cannot be trained; add --eval-only, or name the "
            "weights of the run"
        )
    if options.run.resume:
        _require_start(options.model.weights)
    data = task.build_data(options, bad)
    return data, task.build_model(options, data)


def _require_evaluable(weights: str, task: str) -> None:
    """Refuse to evaluate weights of another task, or weights whose plugins were not named.

    Raises:
        UserError: they are weights of another task, or their plugins are not loaded.
    """
    meta = read_meta(resolve(weights))
    if meta.get("task", task) != task:
        raise UserError(f"--weights {weights}: is a model for {meta['task']}; evaluate it with that task's command")
    plugins.require(meta.get("plugins"), where=f"--weights {weights}")


def _require_start(weights: str) -> None:
    """Refuse to resume a run whose initial weights are gone: which layers they filled decides how the model is built.

    Raises:
        UserError: the weights are a file or a folder that does not exist.
    """
    if is_path(weights) and not weights.startswith(PREFIX) and not os.path.exists(split_part(weights)[0]):
        here = "" if os.path.isabs(weights) else ", or resume in the folder where the run began"
        raise UserError(
            f"--weights {weights}: the run began with these weights, which no longer exist; a resumed run needs them "
            f"to build the same model, so put them back{here}"
        )


def _meta(task: Task[Options, Data, Model], options: Options, data: Data, model: Model) -> JsonObject:
    """Return what a run records of its task, its data and its plugins, for checkpoints and the headers of weights."""
    meta = {**task.meta(options, data, model), "data": data.fingerprints()}
    if data.split is not None:
        meta["split"] = asdict(data.split.options)
    if names := plugins.loaded_names():
        meta["plugins"] = names
    return meta


def _measure(
    experiment: Experiment, training: Training, measure: Measure, delivery: Delivery | None, results: Results
) -> None:
    """Measure the model that a run delivers, unless the last evaluation did so, and complete `results`."""
    if not results or (delivery and delivery.replaced):
        results.clear()
        results.update(measure(training.evaluated))
    results.update(measure.conclude())
    if delivery:
        experiment.complete(training, delivery)


def _compiles(options: TaskOptions) -> bool:
    return options.run.compile and not options.run.eval_only


def _compile(model: nn.Module, *, fixed_size: bool) -> list[str]:
    """Let torch.compile compile the parts of a model at the first step; return their names.

    The moving average is a copy that was made before, so it is not compiled.
    """
    parts = cast(TrainedModule, model).compilable()
    compile_parts(parts, fixed_size=fixed_size)
    return list(parts)


def _rehearse(training: Training, loader: Iterable[Batch], batches: Batches, options: TaskOptions) -> Rehearsal:
    """Time a few steps. Print the result for people, and as JSON for programs."""
    train = options.train
    found = rehearse(training, loader, batches=batches, epochs=train.epochs, clip_norm=train.clip_norm)
    print_plan({"dry run": found})
    if distributed.is_main():
        print(found.to_json(), flush=True)
    distributed.stop()
    return found


def _costs(experiment: Experiment, model: nn.Module, example_shape: Sequence[int] | None) -> JsonObject:
    """Return parameters, multiply-adds, memory and environment of the run for results.json."""
    return costs(model, experiment.device, experiment.precision().dtype, example_shape=example_shape)
