"""Segmentation as a training task: data, model, plan and evaluation of train_seg.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from backbones.common.category_options import CategoryOptions
from backbones.common.files import write_json
from backbones.common.listing import describe_passed_over
from backbones.common.loading import loader
from backbones.errors import UserError, counted
from backbones.norm import norm_eps
from segmentation.data.dataset import LabelSource, Segmentation, collate, collate_whole
from segmentation.data.statistics import LabelStatistics, measure_channels, measure_labels
from segmentation.draw import draw_samples, viewable
from segmentation.fcn import FCN
from segmentation.label_maps import write_maps
from segmentation.losses import PixelLoss, median_frequency_weights
from segmentation.metrics import CONFUSION, POLICY, LabelMetrics, format_table
from segmentation.options import SegmentationDataOptions
from segmentation.predict import Predictor
from segmentation.trained import build_from_options
from tools.engine.bad_images import BadImages
from tools.engine.batches import Batch, Batches
from tools.engine.evaluation import Results
from tools.engine.experiment import Experiment
from tools.engine.measure import Measure
from tools.engine.task import Meta, TaskPlan
from tools.processes import distributed
from tools.processes.batches import TrainBatches
from tools.tasks.data import Splits, augment_entry, bits_entry, bits_row, require_trained_on
from tools.tasks.options import TrainSegmenterOptions
from tools.tasks.samples import read_samples
from tools.tasks.segmentation_data import open_data, pixel_counts
from tools.tasks.subsets import chosen_row, full_repeats

SAMPLES = 6  # rows of samples.png
EVAL_BATCH = 8  # largest number of images in one forward pass


class SegmentationTask:
    """Segmentation with FCNs as a training task. `tools.engine.task.Task` says when each method is called."""

    name: ClassVar[str] = "segmentation"
    prefix: ClassVar[str] = "seg"
    fixed_size: ClassVar[bool] = True

    def metric(self, options: TrainSegmenterOptions, data: Splits[Segmentation]) -> str:
        return "mIoU"

    def build_data(self, options: TrainSegmenterOptions, bad: BadImages) -> Splits[Segmentation]:
        return open_data(options, bad)

    def build_model(self, options: TrainSegmenterOptions, data: Splits[Segmentation]) -> FCN:
        chosen, source = options.model, data.val.source
        weights = None if chosen.weights == "none" else chosen.weights
        loss = None
        if data.train is not None:
            _require_same_classes(data.train.source, source)
            loss = _loss(options, data.train)
        names = source.classes.names
        channels = source.in_channels
        model = build_from_options(
            chosen, weights, num_classes=len(names), in_channels=channels, loss=loss, classes=names
        )
        _check_classes(options, source, model)
        _set_normalisation(options, data, model)
        if data.train is not None:
            model.freeze_stages(chosen.freeze)
        return model

    def meta(self, options: TrainSegmenterOptions, data: Splits[Segmentation], model: FCN) -> Meta:
        backbone, classes = model.backbone, data.val.source.classes
        return {
            "task": self.name,
            "classes": list(classes.names),
            "colours": [list(colour) for colour in classes.colours],
            **_categories_entry(options.data),
            "input": {
                "in_channels": backbone.in_channels,
                **bits_entry(options.data.bits),
                "min_size": options.data.min_size,
                "mean": list(backbone.mean),
                "std": list(backbone.std),
            },
            "norm_eps": norm_eps(backbone),
            "model": asdict(options.model),
            **augment_entry(options.data.augment, eval_only=options.run.eval_only),
        }

    def batches(self, options: TrainSegmenterOptions, data: Splits[Segmentation]) -> TrainBatches:
        groups = np.zeros(len(data.first), np.int64)
        size, accumulate = options.train.batch_size, options.train.accumulate
        repeats = full_repeats(options, None, chosen=len(groups), of=data.choosable)
        return TrainBatches(groups, size, seed=options.run.seed, accumulate=accumulate, repeats=repeats)

    def plan(self, options: TrainSegmenterOptions, data: Splits[Segmentation], model: FCN, meta: Meta) -> TaskPlan:
        chosen, asked, train, val = options.model, options.data, data.train, data.val
        strides = ", ".join(f"{info.name} at stride {info.stride}" for info in model.backbone.feature_info)
        changes = f"augment {asked.augment}, crop {asked.crop_size}"
        labels = {f"{name} labels": _statistics(split) for name, split in (("train", train), ("val", val)) if split}
        return TaskPlan(
            model=f"{chosen.head}, {chosen.backbone} ({strides}), weights {chosen.weights}",
            classes=len(val.source.classes),
            train=f"{_described(train)}; {changes}" if train else None,
            val=f"{_described(val)}, at their own size; {POLICY}",
            of_data={**chosen_row(data.chosen, options.subset), **labels, **bits_row(meta)},
            of_training={"loss": f"{chosen.loss}, class weights {chosen.class_weights}"},
        )

    def train_loader(
        self,
        experiment: Experiment,
        options: TrainSegmenterOptions,
        data: Splits[Segmentation],
        batches: Batches,
        bad: BadImages,
    ) -> Iterable[Batch]:
        images = bad.replacing(data.first)
        return loader(images, workers=experiment.workers, collate=collate, batch_sampler=batches)

    def measure(
        self, experiment: Experiment, options: TrainSegmenterOptions, data: Splits[Segmentation], bad: BadImages
    ) -> SegmentationMeasure:
        return SegmentationMeasure(experiment, options, data.val, bad)

    def example_shape(self, options: TrainSegmenterOptions, meta: Meta) -> tuple[int, int, int]:
        return meta["input"]["in_channels"], options.data.crop_size, options.data.crop_size


class SegmentationMeasure(Measure[LabelMetrics]):
    """Evaluates segmentation models by their mean intersection over union."""

    def __init__(
        self, experiment: Experiment, options: TrainSegmenterOptions, data: Segmentation, bad: BadImages
    ) -> None:
        super().__init__(experiment, bad)
        self.options, self.data = options.data, data
        self.loader = bad.evaluation_loader(
            data,
            workers=experiment.workers,
            collate=collate_whole,
            batch_sampler=distributed.shard(len(data), min(EVAL_BATCH, experiment.eval_batch)),
        )

    def new_evaluator(self) -> LabelMetrics:
        return LabelMetrics(self.data.source.classes.names, keep=True)

    def predictor(self, model: nn.Module) -> Predictor:
        assert isinstance(model, FCN)
        asked = self.options
        return Predictor(
            model,
            min_size=asked.min_size,
            tile=asked.tile,
            overlap=asked.overlap,
            scales=asked.test_scales or (1.0,),
            flip=asked.test_flip,
        )

    def write_predictions(self, folder: Path, evaluator: LabelMetrics) -> None:
        write_maps(folder, evaluator.maps, self.data.source.file)
        matrix = {"classes": list(evaluator.classes), "matrix": evaluator.confusion().tolist()}
        write_json(folder / CONFUSION, matrix, indent=None)

    def table(self, results: Results) -> str:
        return format_table(results)

    def write_samples(self, model: nn.Module, folder: Path) -> str:
        path = folder / "samples.png"
        self._draw(model, path)
        return f"results and pictures are in {folder}; image, truth and prediction side by side: {path}"

    def _draw(self, model: nn.Module, path: Path) -> None:
        """Draw predictions on images that are spread evenly over the validation split."""
        items = read_samples(self.bad.omitting(self.data), np.zeros(len(self.data), np.int64), SAMPLES)
        if not items:
            return
        model.eval()
        with torch.inference_mode(), self.experiment.precision().autocast():
            found = self.predictor(model)([image.to(self.experiment.device) for image, _ in items])
        draw_samples(
            [viewable(image.permute(1, 2, 0).numpy()) for image, _ in items],
            [target["mask"].numpy() for _, target in items],
            [labels.cpu().numpy() for labels in found],
            self.data.source.classes,
        ).save(path)


def _categories_entry(data: SegmentationDataOptions) -> Meta:
    """Return the options that choose the classes, for the header of weights; {} if all classes stay as they are."""
    names = [each.name for each in fields(CategoryOptions)]
    chosen = data.classes != "all" or data.categories().changes_classes
    return {"categories": {name: getattr(data, name) for name in names}} if chosen else {}


def _set_normalisation(options: TrainSegmenterOptions, data: Splits[Segmentation], model: FCN) -> None:
    """Normalise images by the statistics of the weights, or with `--normalise data` by those of the training images."""
    train, backbone = data.train, model.backbone
    if options.data.normalise == "data" and train is not None:
        measured = distributed.on_main(lambda: measure_channels(train.source, train.indices))
        backbone.set_normalisation(*measured)
    for split in (train, data.val):
        if split is not None:
            split.statistics = tuple(backbone.mean), tuple(backbone.std)


def _described(data: Segmentation) -> str:
    others = describe_passed_over(data.source.passed_over)
    text = counted(len(data), "image") + "".join(f"; {what}: {count}" for what, count in data.source.notes.items())
    return f"{text} ({data.source.where}{f'; files passed over: {others}' if others else ''})"


def _loss(options: TrainSegmenterOptions, train: Segmentation) -> PixelLoss:
    weights = None
    if options.model.class_weights == "median":
        weights = torch.from_numpy(median_frequency_weights(pixel_counts(train)))
    return PixelLoss(options.model.loss, weights)


def _statistics(data: Segmentation) -> LabelStatistics:
    """Count the pixels of each class in a sample of the label maps. The main process counts for all."""
    return distributed.on_main(lambda: measure_labels(data.source, data.indices))


def _require_same_classes(train: LabelSource, val: LabelSource) -> None:
    """Refuse splits with different classes, because a class number would mean different classes in each."""
    if train.in_channels != val.in_channels:
        raise UserError(
            f"{val.where}: the images have {val.in_channels} channels, but those of {train.where} have "
            f"{train.in_channels}; name the number for both with --in-channels"
        )
    ours, theirs = train.classes.names, val.classes.names
    plain = [tuple(map(str.casefold, names)) for names in (ours, theirs)]
    if ours != theirs and (plain[0] != plain[1] or len(set(plain[0])) < len(ours)):
        odd = sorted(set(ours) ^ set(theirs)) or [
            name for name, other in zip(ours, theirs, strict=True) if name != other
        ]
        raise UserError(f"classes of {train.where} and {val.where} differ ({', '.join(odd[:3])}); use one data set")


def _check_classes(options: TrainSegmenterOptions, source: LabelSource, model: FCN) -> None:
    """Refuse `--eval-only` with weights that do not hold a whole model for the data's classes."""
    # A checkpoint to resume is read later, and is compared with the classes then.
    if not options.run.eval_only or options.run.resume:
        return
    weights = options.model.weights
    if weights == "none" or model.load_report is None:
        raise UserError(
            "--eval-only: a model with random weights is not worth evaluating; name trained weights with --weights"
        )
    lacking = [name for name in model.load_report.missing if not name.startswith("aux_classifier.")]
    if lacking or not any(name.startswith("classifier.") for name in model.load_report.matched):
        raise UserError(
            f"--weights {weights}: holds no segmentation model of {len(source.classes)} classes; leave out "
            "--eval-only to train one"
        )
    require_trained_on(weights, source.classes.names)
