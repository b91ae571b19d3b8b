"""Classification as a training task: data, model and plan of train_cls.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import ClassVar

import numpy as np

from backbones.errors import UserError
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from classification.data.items import Collate, collate
from classification.data.shards import ShardBatches
from classification.data.source import ImageSource, ShardSource, Split, open_source
from classification.evaluation_sizes import choose_sizes
from classification.mixing import Mixing
from classification.model import Classifier
from classification.options import require_mixable
from classification.trained import build_from_options
from classification.transforms import Augment, Normalise, describe_views
from tools.engine.bad_images import BadImages
from tools.engine.batches import Batch, Batches
from tools.engine.experiment import Experiment
from tools.engine.subset import nested_subset
from tools.engine.task import Meta, TaskPlan
from tools.processes import distributed
from tools.processes.batches import TrainBatches
from tools.synthetic import crops
from tools.tasks.classification_measure import ClassificationMeasure
from tools.tasks.options import TrainClassifierOptions

MEASURED_FOR_MEAN = 2000  # training images from which --normalise data computes mean and std


class ClassificationTask:
    """Trains classifiers on class folders or tar shards. `tools.engine.task.Task` says when each method is called."""

    prefix: ClassVar[str] = "cls"
    metric: ClassVar[str] = "top1"

    def build_data(self, options: TrainClassifierOptions, bad: BadImages) -> ImageSource:
        data = options.data
        splits: tuple[Split, ...] = ("val",) if options.run.eval_only else ("train", "val")
        reduced = options.train.fraction < 1 and "train" in splits
        source = open_source(
            str(distributed.on_main(crops.prepare)) if data.data is None else data.data,
            in_channels=data.in_channels,
            buffer=data.shuffle_buffer,
            guard=bad if bad.skip else None,
            sample=data.sample or 0,
            choose=partial(_fraction, options) if reduced else None,
            splits=splits,
        )
        require_mixable(data, floating=source.floating)
        return source

    def build_model(self, options: TrainClassifierOptions, data: ImageSource) -> Classifier:
        chosen = options.model
        weights = None if chosen.weights == "none" else chosen.weights
        model = build_from_options(chosen, weights, num_classes=len(data.classes), in_channels=data.in_channels)
        _check_classes(options, data, model)
        if chosen.freeze:
            model.backbone.freeze_stages(chosen.freeze)
        # With --eval-only the weights file says how its images were normalised.
        if options.data.normalise == "data" and not options.run.eval_only:
            model.backbone.set_normalisation(*distributed.on_main(lambda: data.statistics(MEASURED_FOR_MEAN)))
        return model

    def meta(self, options: TrainClassifierOptions, data: ImageSource, model: Classifier) -> Meta:
        asked, backbone = options.data, model.backbone
        crop, resize, interpolation = choose_sizes(
            options.model.backbone, options.model.weights, asked.crop_size, asked.resize_size, asked.interpolation
        )
        return {
            "task": "classification",
            "classes": list(data.classes),
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

    def batches(self, options: TrainClassifierOptions, data: ImageSource) -> Batches:
        size, seed, accumulate = options.train.batch_size, options.run.seed, options.train.accumulate
        if isinstance(data, ShardSource):
            return ShardBatches(
                data.train_size,
                size,
                seed=seed,
                accumulate=accumulate,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
            )
        groups = np.zeros(data.train_size, np.int64)
        return TrainBatches(groups, size, seed=seed, accumulate=accumulate)

    def plan(self, options: TrainClassifierOptions, data: ImageSource, model: Classifier, meta: Meta) -> TaskPlan:
        asked, sizes = options.data, meta["input"]
        crop, resize = sizes["crop_size"], sizes["resize_size"]
        train = f"{data.train_size} images, {data.in_channels} channels, augment {asked.augment}, crop {crop}"
        return TaskPlan(
            model=f"{options.model.backbone}, weights {options.model.weights}",
            classes=len(data.classes),
            train=None if options.run.eval_only else train,
            val=f"{data.val_size} images, {describe_views(asked.test_crops, crop, resize)}",
            load_note=_other_classes(options, data, model),
            of_data={"data": asked.data or "built-in shapes"},
        )

    def train_loader(
        self,
        experiment: Experiment,
        options: TrainClassifierOptions,
        data: ImageSource,
        batches: Batches,
        bad: BadImages,
    ) -> Iterable[Batch]:
        asked, seed, sizes = options.data, options.run.seed, experiment.meta["input"]
        normalise = Normalise(tuple(sizes["mean"]), tuple(sizes["std"]))
        augment = Augment(asked.augment, sizes["crop_size"], normalise, seed)
        mixing: Collate = collate
        if asked.mixup or asked.cutmix:
            mixing = Mixing(mixup=asked.mixup, cutmix=asked.cutmix, num_classes=len(data.classes), seed=seed)
        return data.train_loader(batches, augment, workers=experiment.workers, collate=mixing)

    def measure(
        self, experiment: Experiment, options: TrainClassifierOptions, data: ImageSource, bad: BadImages
    ) -> ClassificationMeasure:
        return ClassificationMeasure(experiment, options, data, bad)

    def example_shape(self, options: TrainClassifierOptions, meta: Meta) -> tuple[int, int, int]:
        size = meta["input"]["crop_size"]
        return meta["input"]["in_channels"], size, size


def _fraction(options: TrainClassifierOptions, labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return the indices of the images that `--fraction` keeps, from their labels `[N]`."""
    images = np.arange(len(labels))
    fraction, seed = options.train.fraction, options.run.seed
    return nested_subset(images, labels, size=len(labels), fraction=fraction, seed=seed, names=names)


def _check_classes(options: TrainClassifierOptions, data: ImageSource, model: Classifier) -> None:
    """Refuse `--eval-only` with weights whose last layer is not for these classes, in this order."""
    # A checkpoint to resume is read later, and is compared with the classes then.
    if not options.run.eval_only or options.run.resume:
        return
    weights = options.model.weights
    if weights == "none":
        raise UserError("--eval-only: random weights predict nothing; name --weights")
    if any(name.startswith(("fc.", "net.")) for name in getattr(model.load_report, "missing", ())):
        raise UserError(
            f"--weights {weights}: has no last layer for the {len(data.classes)} classes of the data; "
            "leave out --eval-only to train one"
        )
    trained_on = read_meta(resolve(weights)).get("classes")
    if trained_on is not None and tuple(trained_on) != data.classes:
        odd = next((a, b) for a, b in zip(trained_on, data.classes, strict=True) if a != b)
        raise UserError(
            f"--weights {weights}: was trained on other classes than the data's ({odd[0]}, not {odd[1]}); use its data"
        )


def _other_classes(options: TrainClassifierOptions, data: ImageSource, model: Classifier) -> str:
    """Return a warning if the last layer was loaded from a file of other classes."""
    trained_on = read_meta(resolve(options.model.weights)).get("classes")
    loaded = model.load_report is not None and not any("fc." in name for name in model.load_report.missing)
    if trained_on is None or tuple(trained_on) == data.classes or not loaded:
        return ""
    return "; WARNING: the last layer was trained on other classes, and training starts from it"
