"""TODO-DOC tools/tasks/classification.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError, require
from classification.options import ClassificationDataOptions, ClassifierOptions, require_mixable
from tools.engine.options import RunOptions, TrainOptions, require_frozen
from tools.engine.recipes import named_recipe, resumed_config

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from classification.data.source import Source, Split
    from classification.evaluation_sizes import Published
    from classification.model import Classifier
    from classification.transforms import Normalise
    from tools.engine.bad_images import BadImages
    from tools.engine.run import Experiment
    from tools.processes.distributed import TrainBatches


@dataclass
class Options:
    """Everything a classification run is told."""

    data: ClassificationDataOptions
    model: ClassifierOptions
    train: TrainOptions
    run: RunOptions

    def __post_init__(self) -> None:
        require_frozen(self.train, self.model.freeze)
        batch, accumulate = self.train.batch_size, self.train.accumulate
        even = batch % accumulate or batch // accumulate % 2 == 0  # what does not divide is refused with other words
        mixes = self.data.mixup or self.data.cutmix
        require(even or not mixes, "batch_size", batch, "--mixup and --cutmix pair the images: take an even number")


RECIPES = Path(__file__).resolve().parents[2] / "classification" / "recipes"


EVAL_BATCH = 128  # images of one forward pass of an evaluation, at most


MEASURED_FOR_MEAN = 2000  # training images that --normalise data looks at


def recipe(argv: Sequence[str]) -> Path | None:
    """Defaults: those of the run to resume, of `--recipe`, else standard for named data and shapes without."""
    return resumed_config(argv, prefix="cls") or named_recipe(argv, RECIPES)


def build(options: Options, bad: BadImages) -> tuple[Source, Classifier]:
    """Data and net."""
    source = build_source(options, bad)
    return source, build_model(options, source)


def build_source(options: Options, bad: BadImages) -> Source:
    """The images: class folders, tar shards or the shapes."""
    from classification.data.source import open_source

    data = options.data
    splits: tuple[Split, ...] = ("val",) if options.run.eval_only else ("train", "val")
    address = data.data
    if address is None:
        from tools.processes import distributed
        from tools.synthetic import crops

        address = str(distributed.on_main(crops.prepare))
    guard = bad if bad.skip else None
    buffer, limit = data.shuffle_buffer, data.limit or 0
    choose = partial(_share, options) if options.train.fraction < 1 and "train" in splits else None
    limits: dict[str, Any] = {"limit": limit, "choose": choose, "splits": splits}
    source = open_source(address, in_channels=data.in_channels, buffer=buffer, guard=guard, **limits)
    require_mixable(data, floating=source.floating)
    return source


def build_model(options: Options, source: Source) -> Classifier:
    """The net that the options describe, for the classes of the data.

    Raises:
        UserError: for weights that do not fit, or, without training, that were made for other classes.
    """
    from classification.trained import build_from_options

    model = options.model
    weights = None if model.weights == "none" else model.weights
    net = build_from_options(model, weights, num_classes=len(source.classes), in_channels=source.in_channels)
    _check_classes(options, source, net)
    if model.freeze:
        net.backbone.freeze_stages(model.freeze)
    if options.data.normalise == "data" and not options.run.eval_only:  # measured weights say their own
        net.backbone.set_normalisation(*_statistics(source))
    return net


def build_batches(options: Options, source: Source) -> TrainBatches | Any:
    """The order of the training images."""
    import numpy as np

    from classification.data.shards import ShardBatches
    from classification.data.source import ShardSource
    from tools.processes import distributed

    common: dict[str, Any] = {"seed": options.run.seed, "accumulate": options.train.accumulate}
    if isinstance(source, ShardSource):
        place = {"rank": distributed.rank(), "world_size": distributed.world_size()}
        return ShardBatches(source.train_size, options.train.batch_size, **common, **place)
    return distributed.TrainBatches(np.zeros(source.train_size, np.int64), options.train.batch_size, **common)


def build_train(experiment: Experiment, options: Options, source: Source, batches: Any) -> Any:
    """The loader of training batches."""
    from classification.data.folders import collate
    from classification.transforms import Augment

    data, seed = options.data, options.run.seed
    augment = Augment(data.augment, _sizes(experiment)[0], _normalise(experiment), seed)
    mixing: Any = collate
    if data.mixup or data.cutmix:
        from classification.mixing import Mixing

        mixing = Mixing(mixup=data.mixup, cutmix=data.cutmix, num_classes=len(source.classes), seed=seed)
    return source.train_loader(batches, augment, workers=experiment.workers, collate=mixing)


def meta(options: Options, source: Source, model: Classifier) -> dict[str, Any]:
    """What the weights were made for; kept with them."""
    crop, resize, interpolation = _chosen_sizes(options)
    backbone = model.backbone
    return {
        "task": "classification",
        "classes": list(source.classes),
        "input": {
            "in_channels": backbone.in_channels,
            "crop_size": crop,
            "resize_size": resize,
            "interpolation": interpolation,
            "mean": list(backbone.mean),
            "std": list(backbone.std),
        },
        "model": asdict(options.model),
    }


def show_plan(experiment: Experiment, options: Options, source: Source, model: Classifier, steps: int) -> None:
    """Say what is about to be trained, on what and how."""
    from classification.transforms import describe_views
    from tools.engine.optim import rate_rows
    from tools.engine.plan import print_plan
    from tools.processes import distributed

    train, data = options.train, options.data
    world = distributed.world_size()
    crop, resize = _sizes(experiment)
    rows = {
        "run folder": experiment.folder,
        "model": f"{options.model.backbone}, weights {options.model.weights}",
        "loaded": f"{model.load_report or 'nothing: random weights'}{_other_classes(options, source, model)}",
        "norm layers": experiment.norms(model),
        "classes": len(source.classes),
        "train": f"{source.train_size} images, {source.in_channels} channels, augment {data.augment}, crop {crop}",
        "val": f"{source.val_size} images, {describe_views(data.test_crops, crop, resize)}",
        "data": data.data or "built-in shapes",
        "processes": f"{world} on {experiment.device.type}, {experiment.precision().dtype}".replace("torch.", ""),
        "batch": f"{train.batch_size} = {world} x {experiment.process_batch} x {train.accumulate} accumulated",
        **rate_rows(model, train),
        "steps": f"{train.epochs} epochs x {steps} = {train.epochs * steps}",
    }
    if options.run.eval_only:
        rows = {name: rows[name] for name in rows if name not in ("train", "batch", "lr", "stages", "steps")}
    print_plan(rows)


class Measure:
    """Evaluates a model on the validation split, and writes what a run leaves behind."""

    def __init__(self, experiment: Experiment, options: Options, source: Source, bad: BadImages) -> None:
        self.experiment, self.source, self.bad = experiment, source, bad
        self.val = self._loader(options, "val")
        self.limit = 0 if options.run.eval_only or "train" not in source.measurable else options.data.train_eval
        self.train = self._loader(options, "train", limit=self.limit) if self.limit else None
        self.evaluator: Any = None

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """Accuracy of a model, the same on every process; that on training images has `train_` before its names."""
        from classification.metrics import TopK

        self.evaluator = TopK(self.source.classes, expected=self.source.expected("val"))
        results = self._evaluate(model, self.val, self.evaluator, losses=self.experiment.run.val_loss)
        if self.train is not None:
            seen = TopK(self.source.classes, prefix="train_", expected=self.source.expected("train", self.limit))
            results |= self._evaluate(model, self.train, seen)
        return {**results, **self.bad.counted()}

    def report(self, results: dict[str, Any], costs: dict[str, Any]) -> None:
        """Print the figures; write `results.json` and `predictions.csv` on the main process."""
        from backbones.common.files import write_json, write_text
        from classification.metrics import format_table, predictions_csv
        from tools.processes import distributed

        if not distributed.is_main():
            return
        folder = self.experiment.folder
        write_json(folder / "results.json", {**self._earlier(), **results, **self.bad.listed(), **costs})
        if self.evaluator is not None:
            rows = self.evaluator.rows()
            names = self.source.names("val", rows["index"])
            write_text(folder / "predictions.csv", predictions_csv(rows, names, self.source.classes))
        print(format_table(results))
        print(f"results and predictions are in {folder}")

    def _earlier(self) -> dict[str, Any]:
        """What a run wrote before that is measured again: figures that evaluation alone lacks are kept."""
        path = self.experiment.folder / "results.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _loader(self, options: Options, split: Split, *, limit: int = 0) -> Any:
        from classification.transforms import Views
        from tools.processes import distributed

        crop, resize = _sizes(self.experiment)
        crops = options.data.test_crops
        views = Views(crops, resize, crop, _normalise(self.experiment), self.experiment.meta["input"]["interpolation"])
        whole = self.experiment.eval_batch
        batch = {"center": min(EVAL_BATCH, 2 * whole), "ten": max(1, min(EVAL_BATCH, whole) // 4)}
        return self.source.eval_loader(
            split,
            views,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            batch_size=batch.get(crops, 1),  # whole images differ in size
            workers=self.experiment.workers,
            limit=limit,
        )

    def _evaluate(self, model: Any, loader: Any, evaluator: Any, *, losses: bool = False) -> dict[str, Any]:
        from classification.model import ViewAverage
        from tools.engine.evaluation import evaluate

        precision = self.experiment.precision()
        return evaluate(ViewAverage(model), loader, evaluator, precision=precision, losses=losses)


def _check_classes(options: Options, source: Source, net: Classifier) -> None:
    """Without training, the last layer must be one for these classes, in this order."""
    if not options.run.eval_only or options.run.resume:  # the checkpoint, which comes later, was made for them
        return
    from backbones.weights.files import read_meta
    from backbones.weights.hub import resolve

    weights = options.model.weights
    if weights == "none":
        raise UserError("--eval-only: random weights predict nothing; name --weights")
    if any(name.startswith(("fc.", "net.")) for name in getattr(net.load_report, "missing", ())):
        raise UserError(f"--weights {weights}: its last layer is not for the {len(source.classes)} classes of the data")
    made_for = read_meta(resolve(weights)).get("classes")
    if made_for is not None and tuple(made_for) != source.classes:
        odd = next((a, b) for a, b in zip(made_for, source.classes, strict=True) if a != b)
        raise UserError(f"--weights {weights}: was trained on other classes than the data's ({odd[0]}, not {odd[1]})")


def _chosen_sizes(options: Options) -> Published:
    from classification.evaluation_sizes import choose_sizes

    data, model = options.data, options.model
    return choose_sizes(model.backbone, model.weights, data.crop_size, data.resize_size, data.interpolation)


def _other_classes(options: Options, source: Source, model: Classifier) -> str:
    """A warning where a last layer was loaded that means other classes."""
    from backbones.weights.files import read_meta
    from backbones.weights.hub import resolve

    made_for = read_meta(resolve(options.model.weights)).get("classes")
    loaded = model.load_report is not None and not any("fc." in name for name in model.load_report.missing)
    if made_for is None or tuple(made_for) == source.classes or not loaded:
        return ""
    return "; WARNING: its last layer was trained on other classes, and begins from them"


def _share(options: Options, labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Places of the images that `--fraction` leaves."""
    import numpy as np

    from tools.engine.subset import share_of

    common: dict[str, Any] = {"names": names, "train": options.train, "run": options.run}
    return share_of(np.arange(len(labels)), labels, size=len(labels), **common)


def _sizes(experiment: Experiment) -> tuple[int, int]:
    return experiment.meta["input"]["crop_size"], experiment.meta["input"]["resize_size"]


def _normalise(experiment: Experiment) -> Normalise:
    from classification.transforms import Normalise

    return Normalise(tuple(experiment.meta["input"]["mean"]), tuple(experiment.meta["input"]["std"]))


def _statistics(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by channel of the training images, on every process alike."""
    from tools.processes.distributed import on_main

    return on_main(lambda: source.statistics(MEASURED_FOR_MEAN))
