"""Classification as a training task: data, model, plan and evaluation of train_cls.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from backbones.common.data_split import DataSplit
from backbones.common.split_options import SplitOptions
from backbones.common.stratified import ItemClasses
from backbones.errors import UserError, counted, require
from backbones.norm import norm_eps
from backbones.weights.hub import resolve
from classification.balance import balanced_repeats, class_weights
from classification.data.folder_source import classes_of
from classification.data.folders import ClassFolder
from classification.data.items import Collate, collate
from classification.data.layouts import has_split
from classification.data.names import IMAGENET_CLASSES, ClassNames
from classification.data.opening import open_source
from classification.data.reading import Reading
from classification.data.shard_index import holds_shards
from classification.data.shard_source import ShardSource
from classification.data.shards import ShardBatches
from classification.data.source import ImageSource, Split
from classification.evaluation_sizes import choose_sizes
from classification.mixing import Mixing
from classification.model import Classifier, outputs_of
from classification.options import require_mixable
from classification.trained import build_from_options
from classification.transforms import Augment, Normalise, describe_views
from tools.engine.bad_images import BadImages
from tools.engine.batches import Batch, Batches
from tools.engine.experiment import Experiment
from tools.engine.task import Meta, TaskPlan
from tools.processes import distributed
from tools.processes.batches import TrainBatches
from tools.synthetic import crops
from tools.tasks.builtin import built_in_data
from tools.tasks.classification_measure import ClassificationMeasure, evaluated_meta
from tools.tasks.data import bits_entry, bits_row, classes_trained_on, require_trained_on
from tools.tasks.options import TrainClassifierOptions
from tools.tasks.splits import ExistingSplits, UndividedImages, decide_split, wanted_split
from tools.tasks.subsets import choose_by_classes, choose_listed, chosen_row, full_repeats

MEASURED_FOR_MEAN = 2000  # training images from which --normalise data computes mean and std
# Metrics that may choose the best model, the default first; for one class an image, and for several.
METRICS = {False: ("top1", "balanced_accuracy", "macro_f1"), True: ("mAP", "macro_f1")}


class ClassificationTask:
    """Classification as a training task. `tools.engine.task.Task` says when each method is called."""

    name: ClassVar[str] = "classification"
    prefix: ClassVar[str] = "cls"
    fixed_size: ClassVar[bool] = True

    def metric(self, options: TrainClassifierOptions, data: ImageSource) -> str:
        chosen = options.data.choose_by
        return METRICS[data.multi_label][0] if chosen == "auto" else chosen

    def build_data(self, options: TrainClassifierOptions, bad: BadImages) -> ImageSource:
        data = options.data
        splits: tuple[Split, ...] = ("val",) if options.run.eval_only else ("train", "val")
        reduced = options.subset.asked and "train" in splits
        wanted = wanted_split(options, **_existing_splits(options, bad))
        source = open_source(
            str(built_in_data(crops.prepare, options.run, options.model.weights)) if data.data is None else data.data,
            in_channels=data.in_channels,
            buffer=data.shuffle_buffer,
            guard=bad if bad.skip else None,
            sample=data.sample or 0,
            choose=partial(_chosen, options) if reduced else None,
            divide=partial(_divide, wanted, options, bad) if wanted else None,
            splits=splits,
            folder_names={"train": data.train_split, "val": data.val_split},
            classes=_evaluated_classes(options, bad) if options.run.eval_only else None,
            bits=data.bits,
            reading=_reading(options, bad),
            categories=options.categories,
        )
        if "train" in splits and len(source.classes) < 2:
            raise UserError(
                f"{source.where['train']}: has only one class, {source.classes[0]}, so that there is nothing to learn; "
                f"expected two classes or more{_hint(source)}"
            )
        require_mixable(data, floating=source.floating)
        _require_fitting(options, source)
        return source

    def build_model(self, options: TrainClassifierOptions, data: ImageSource) -> Classifier:
        chosen = options.model
        weights = None if chosen.weights == "none" else chosen.weights
        count, channels = len(data.classes), data.in_channels
        model = build_from_options(
            chosen,
            weights,
            num_classes=count,
            in_channels=channels,
            classes=data.classes,
            multi_label=data.multi_label,
            class_weights=None if options.run.eval_only else _class_weights(options, data),
        )
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
            "task": self.name,
            "classes": list(data.classes),
            **({"multi_label": True} if data.multi_label else {}),
            **({"categories": asdict(options.categories)} if options.categories.changes_classes else {}),
            "input": {
                "in_channels": backbone.in_channels,
                **bits_entry(options.data.bits),
                "crop_size": crop,
                "resize_size": resize,
                "interpolation": interpolation,
                "mean": list(backbone.mean),
                "std": list(backbone.std),
            },
            "norm_eps": norm_eps(backbone),
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
        groups, repeats = np.zeros(data.train_size, np.int64), None
        if options.data.sampling == "balanced" and not options.run.eval_only:
            repeats = balanced_repeats(_train_labels(data, "--sampling balanced"), len(data.classes))
        repeats = full_repeats(options, repeats, chosen=data.train_size, of=data.choosable)
        return TrainBatches(groups, size, seed=seed, accumulate=accumulate, repeats=repeats)

    def plan(self, options: TrainClassifierOptions, data: ImageSource, model: Classifier, meta: Meta) -> TaskPlan:
        asked, sizes = options.data, meta["input"]
        crop, resize = sizes["crop_size"], sizes["resize_size"]
        shape = f"{counted(data.train_size, 'image')}, {counted(data.in_channels, 'channel')}"
        train = f"{shape}, augment {asked.augment}, crop {crop}"
        val = f"{counted(data.val_size, 'image')}, {describe_views(asked.test_crops, crop, resize)}"
        return TaskPlan(
            model=f"{options.model.backbone}, weights {options.model.weights}",
            classes=len(data.classes),
            train=None if options.run.eval_only else train + _told(data, "train"),
            val=val + _told(data, "val"),
            load_note=_other_classes(options, data, model),
            of_data={
                "data": asked.data or "built-in shapes",
                **chosen_row(data.chosen, options.subset),
                **bits_row(meta),
            },
            of_training={
                "loss": f"{'binary ' if data.multi_label else ''}cross-entropy, class weights "
                f"{options.model.class_weights}, sampling {asked.sampling}",
            },
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


def _require_fitting(options: TrainClassifierOptions, source: ImageSource) -> None:
    """Refuse options that do not fit images of one class, or of several."""
    asked, known = options.data, METRICS[source.multi_label]
    what = "images of several classes" if source.multi_label else "images of one class each"
    allowed = asked.choose_by in ("auto", *known)
    require(allowed, "choose_by", asked.choose_by, f"is no metric of {what}; choose among {', '.join(known)}")
    for name in ("mixup", "cutmix"):
        value = getattr(asked, name)
        require(not (source.multi_label and value), name, value, f"is not for {what}; use 0")


def _train_labels(data: ImageSource, name: str) -> np.ndarray:
    """Return the labels of the training images, which an option needs.

    Raises:
        UserError: the data is tar shards.
    """
    labels = data.train_labels()
    if labels is None:
        raise UserError(f"{name}: does not work with tar shards, whose labels are not known before they come")
    return labels


def _class_weights(options: TrainClassifierOptions, data: ImageSource) -> Tensor | None:
    kind = options.model.class_weights
    if kind == "none":
        return None
    return torch.from_numpy(class_weights(_train_labels(data, f"--class-weights {kind}"), len(data.classes), kind))


def _reading(options: TrainClassifierOptions, bad: BadImages) -> Reading:
    """Return how the options, or the weights that `--eval-only` evaluates, say that the data set is to be read."""
    skips = options.run.on_bad_image == "skip"
    reading = Reading.of(options.reading, allow_outside=options.data.allow_outside, keep_absent=skips)
    if options.run.eval_only and evaluated_meta(options, bad.record.parent).get("multi_label"):
        # The images of one split may happen to have one class each.
        return replace(reading, multi_label=True)
    return reading


def _existing_splits(options: TrainClassifierOptions, bad: BadImages) -> ExistingSplits:
    """Return which splits the data have, and the name of the data."""
    data, reading = options.data, _reading(options, bad)
    where, how = f"--data {data.data}", "--val-split"
    if data.data is None or holds_shards(data.data):
        where = where if data.data else "the built-in data set of shapes"
        return ExistingSplits(has_train=True, has_val=True, where=where, how=how)
    has_val = has_split(Path(data.data), data.val_split, reading)
    has_train = has_val or has_split(Path(data.data), data.train_split, reading)
    return ExistingSplits(has_train=has_train, has_val=has_val, where=where, how=how)


def _divide(wanted: SplitOptions, options: TrainClassifierOptions, bad: BadImages, folder: ClassFolder) -> DataSplit:
    """Split the images of the training folder."""
    files = [folder.path(row) for row in range(len(folder))]
    rows, labels = (np.arange(len(folder)), folder.labels) if folder.labels.ndim == 1 else np.nonzero(folder.labels)
    shown = ItemClasses(rows, labels, len(folder.classes))
    images = UndividedImages(folder.file_names(), files, folder.classes, lambda: shown)
    return decide_split(wanted, options, images, bad)


def _chosen(
    options: TrainClassifierOptions, labels: np.ndarray, names: tuple[str, ...], files: Sequence[str]
) -> tuple[np.ndarray, str]:
    """Return the indices of the training images that the options choose, and what was chosen for the plan.

    Args:
        labels: labels of all images, `[N]`, or `[N, classes]` bool in a multi-label data set.
        files: file names of all images.
    """
    if options.subset.train_list:
        chosen = choose_listed(options, files)
    else:
        chosen = choose_by_classes(options, *classes_of(labels), size=len(labels), names=names)
    return chosen.rows, chosen.note


def _told(data: ImageSource, split: Split) -> str:
    """Describe a split for the plan: its folder, and remarks on it."""
    return f" ({data.where[split]})" + (f"; {data.remarks[split]}" if data.remarks[split] else "")


def _hint(data: ImageSource) -> str:
    return f" ({data.remarks['train']})" if data.remarks["train"] else ""


def _evaluated_classes(options: TrainClassifierOptions, bad: BadImages) -> ClassNames | None:
    """Return the classes of the model that `--eval-only` evaluates; None for the classes of the validation folders.

    ImageNet's classes are returned for published weights, and for files that record no classes but have a thousand.
    """
    weights = options.model.weights
    if options.run.resume:
        names = evaluated_meta(options, bad.record.parent).get("classes")
        return ClassNames.of(names) if names else None
    if weights == "none":
        return None
    if names := classes_trained_on(weights):
        return ClassNames.of(names)
    path = Path(resolve(weights) or "")
    return ClassNames.imagenet() if not path.is_file() or outputs_of(path) == IMAGENET_CLASSES else None


def _check_classes(options: TrainClassifierOptions, data: ImageSource, model: Classifier) -> None:
    """Refuse `--eval-only` with weights whose last layer is not made for the data's classes in the same order."""
    # A checkpoint to resume is read later, and is compared with the classes then.
    if not options.run.eval_only or options.run.resume:
        return
    weights = options.model.weights
    if weights == "none":
        raise UserError(
            "--eval-only: a model with random weights is not worth evaluating; name trained weights with --weights"
        )
    if any(name.startswith(("fc.", "net.")) for name in getattr(model.load_report, "missing", ())):
        raise UserError(
            f"--weights {weights}: has no last layer for the {len(data.classes)} classes of the data; "
            "leave out --eval-only to train one"
        )
    require_trained_on(weights, data.classes)


def _other_classes(options: TrainClassifierOptions, data: ImageSource, model: Classifier) -> str:
    """Return a warning if the last layer comes from a file that was trained on other classes; else ""."""
    trained_on = classes_trained_on(options.model.weights)
    loaded = model.load_report is not None and not any("fc." in name for name in model.load_report.missing)
    if trained_on is None or sorted(trained_on) == sorted(data.classes) or not loaded:
        return ""
    return "; WARNING: the last layer was trained on other classes, and training starts from it"
