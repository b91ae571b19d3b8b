"""Detection as a training task: data, model, plan and evaluation of train_det.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from backbones.common.files import write_json
from backbones.common.listing import describe_passed_over
from backbones.common.loading import loader
from backbones.errors import UserError, counted, first_names
from backbones.norm import norm_eps
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from detection.data.dataset import CocoDetection, collate
from detection.draw import draw_samples
from detection.faster_rcnn import FasterRCNN
from detection.necks import require_neck
from detection.options import DetectorOptions
from detection.predict import Predictor
from detection.runs import strips_of_codes
from detection.trained import build_from_options, from_file
from detection.weights import MASK_BRANCH, untrained_categories
from tools.engine.bad_images import BadImages
from tools.engine.batches import Batch, Batches, to_device
from tools.engine.evaluation import Results
from tools.engine.experiment import Experiment
from tools.engine.measure import Measure
from tools.engine.task import Meta, TaskPlan
from tools.evaluation.evaluator import CocoEvaluator
from tools.evaluation.summary import class_summary, format_table
from tools.processes import distributed
from tools.processes.batches import TrainBatches
from tools.tasks.data import Splits, augment_entry, bits_entry, bits_row
from tools.tasks.detection_data import open_data
from tools.tasks.options import TrainDetectorOptions, describe_detector_recipe
from tools.tasks.samples import read_samples
from tools.tasks.subsets import chosen_row, full_repeats

# Model options that change how boxes are computed, and that a weights file does not check.
UNCHECKED = ("min_size", "max_size", "anchor_scale", "roi_samples")
SAMPLES = 8  # rows of samples.png
EVAL_BATCH = 8  # largest number of images in one forward pass


class DetectionTask:
    """Detection with Faster R-CNN as a training task. `tools.engine.task.Task` says when each method is called."""

    name: ClassVar[str] = "detection"
    prefix: ClassVar[str] = "det"
    fixed_size: ClassVar[bool] = False

    def metric(self, options: TrainDetectorOptions, data: Splits[CocoDetection]) -> str:
        return "AP"

    def build_data(self, options: TrainDetectorOptions, bad: BadImages) -> Splits[CocoDetection]:
        require_neck(options.model.neck)  # before the data are read, which may take long
        return open_data(options, bad)

    def build_model(self, options: TrainDetectorOptions, data: Splits[CocoDetection]) -> FasterRCNN:
        model = options.model
        weights = None if model.weights == "none" else model.weights
        detector = build_from_options(model, weights, categories=data.val.annotations.categories)
        missing = detector.load_report.missing if detector.load_report else ()
        absent = untrained_categories(detector.load_report)
        detector.trust_targets()  # the loaders check them
        if options.run.eval_only and any(name.startswith(MASK_BRANCH) for name in missing):
            raise UserError(f"--weights {weights}: was trained without masks; leave out --masks, or --eval-only")
        if options.run.eval_only and absent:
            raise UserError(
                f"--weights {weights}: was not trained on {len(absent)} of the data's categories "
                f"({first_names(absent)}); leave out --eval-only to train the missing categories, or use data "
                "of the same categories"
            )
        if not options.run.eval_only:
            detector.freeze_stages(model.frozen_stages)
        return detector

    def meta(self, options: TrainDetectorOptions, data: Splits[CocoDetection], model: FasterRCNN) -> Meta:
        categories = data.val.annotations.categories
        return {
            "task": self.name,
            "category_ids": list(categories.ids),
            "category_names": list(categories.names),
            "input": {**model.transform.describe(), **bits_entry(options.data.bits)},
            "norm_eps": norm_eps(model.backbone.body),
            "model": asdict(options.model),
            **({"categories": asdict(options.categories)} if options.categories.changes_classes else {}),
            **augment_entry(options.data.augment, eval_only=options.run.eval_only),
        }

    def batches(self, options: TrainDetectorOptions, data: Splits[CocoDetection]) -> TrainBatches:
        threshold = options.data.repeat_threshold
        repeats = data.train.repeat_factors(threshold) if data.train and threshold else None
        return TrainBatches(
            data.first.aspect_groups(),
            options.train.batch_size,
            seed=options.run.seed,
            accumulate=options.train.accumulate,
            repeats=full_repeats(options, repeats, chosen=len(data.first), of=data.choosable),
        )

    def plan(
        self, options: TrainDetectorOptions, data: Splits[CocoDetection], model: FasterRCNN, meta: Meta
    ) -> TaskPlan:
        chosen = options.model
        kind = "Mask R-CNN" if chosen.masks else "R-CNN" if chosen.cascade else "Faster R-CNN"
        kind = f"Cascade {kind}" if chosen.cascade else kind
        return TaskPlan(
            model=f"{kind}, {chosen.backbone}, {chosen.neck}, weights {chosen.weights}",
            classes=len(data.val.annotations.categories),
            train=describe_split(data.train) if data.train else None,
            val=describe_split(data.val) + _crowded_note(data.val, chosen.max_detections),
            load_note=_other_settings(chosen),
            of_data={**chosen_row(data.chosen, options.subset), **bits_row(meta)},
            of_training={"recipe": describe_detector_recipe(options)},
        )

    def train_loader(
        self,
        experiment: Experiment,
        options: TrainDetectorOptions,
        data: Splits[CocoDetection],
        batches: Batches,
        bad: BadImages,
    ) -> Iterable[Batch]:
        images = bad.replacing(data.first)
        return loader(
            images,
            workers=experiment.workers,
            collate=partial(collate, num_classes=len(data.val.annotations.categories)),
            batch_sampler=batches,
        )

    def measure(
        self,
        experiment: Experiment,
        options: TrainDetectorOptions,
        data: Splits[CocoDetection],
        bad: BadImages,
    ) -> DetectionMeasure:
        return DetectionMeasure(experiment, options, data.val, bad)

    def example_shape(self, options: TrainDetectorOptions, meta: Meta) -> None:
        """Return None, because a detector's multiply-adds depend on how many objects it finds."""


class DetectionMeasure(Measure[CocoEvaluator]):
    """Evaluates detectors by COCO metrics.

    Raises:
        UserError: a file of `--ensemble` does not hold a detector, or holds a detector of other categories.
    """

    def __init__(
        self, experiment: Experiment, options: TrainDetectorOptions, data: CocoDetection, bad: BadImages
    ) -> None:
        super().__init__(experiment, bad)
        self.options, self.data = options, data
        self.others = self._ensemble()
        self.loader = bad.evaluation_loader(
            data,
            workers=experiment.workers,
            collate=partial(collate, num_classes=len(data.annotations.categories)),
            batch_sampler=distributed.shard(len(data), min(EVAL_BATCH, experiment.eval_batch)),
        )

    def new_evaluator(self) -> CocoEvaluator:
        truth, masks = self.data.annotations, self.options.model.masks
        source = truth.source if isinstance(truth.source, Path) else json.loads(truth.source)
        return CocoEvaluator(
            source,
            category_ids=truth.categories.ids,
            image_ids=truth.image_ids[self.data.indices].tolist(),
            engine=self.options.data.evaluator,
            protocol=truth.protocol,
            max_detections=self.options.model.max_detections,
            iou_types=("bbox", "segm") if masks else ("bbox",),
        )

    def predictor(self, model: nn.Module) -> Predictor:
        assert isinstance(model, FasterRCNN)
        asked = self.options.evaluation
        return Predictor(
            [model, *self.others],
            sizes=asked.test_sizes or (),
            flip=asked.test_flip,
            refine=asked.refine,
            nms=asked.test_nms,
            soft_nms=asked.soft_nms,
            outlines=True,
        )

    def conclude(self) -> Results:
        """Return the best limits of scores, and keep those of the classes for the header of the weights."""
        matched = self.evaluator.matched()
        if matched is None:
            return {}
        best = matched.best_scores()
        self.experiment.measured_meta["best_scores"] = matched.limits(best)
        return {"best_scores": best}

    def write_predictions(self, folder: Path, evaluator: CocoEvaluator) -> None:
        write_json(folder / "detections.json", evaluator.detections(), indent=None)

    def table(self, results: Results) -> str:
        return f"{format_table(results)}\n\n{class_summary(results['per_class'])}".rstrip()

    def write_samples(self, model: nn.Module, folder: Path) -> str:
        path = folder / "samples.png"
        self._draw(model, path)
        return f"results, detections and pictures are in {folder}; truth and detections side by side: {path}"

    def _ensemble(self) -> list[FasterRCNN]:
        """Load the other detectors that `--ensemble` names onto the device of the run."""
        categories, files = self.data.annotations.categories, self.options.evaluation.ensemble or ()
        models = distributed.on_all(lambda: [from_file(path, categories) for path in files])
        return [model.to(self.experiment.device).to(memory_format=torch.channels_last) for model in models]

    def _draw(self, model: nn.Module, path: Path) -> None:
        """Draw predictions on images that are spread evenly over the validation split and have many objects."""
        owners, _ = self.data.annotations.objects(self.data.indices)
        objects = np.bincount(owners, minlength=len(self.data))
        shown = read_samples(self.bad.omitting(self.data), objects, SAMPLES)
        if not shown:
            return
        images, truths = zip(*shown, strict=True)
        predictor = self.predictor(model).eval()
        with torch.inference_mode(), self.experiment.precision().autocast():
            found = predictor([to_device(image, self.experiment.device) for image in images])
        draw_samples(
            [image.permute(1, 2, 0).numpy() for image in images],
            [_arrays(truth) for truth in truths],
            [_arrays(_with_strips(detections)) for detections in found],
            self.data.annotations.categories.names,
        ).save(path)


def _other_settings(options: DetectorOptions) -> str:
    """Return a warning if the weights file was trained with other values of `UNCHECKED` options; else ""."""
    before, now = read_meta(resolve(options.weights)).get("model", {}), asdict(options)
    odd = [f"{name} {before[name]}, now {now[name]}" for name in UNCHECKED if before.get(name, now[name]) != now[name]]
    return f"; WARNING: trained with {', '.join(odd)}" if odd else ""


def describe_split(data: CocoDetection) -> str:
    """Count images and boxes of a split."""
    truth, rows = data.annotations, data.indices
    boxes = int((truth.offsets[rows + 1] - truth.offsets[rows]).sum())
    text = f"{counted(len(data), 'image')}, {counted(boxes, 'box')}"
    text += f", {int(truth.empty()[rows].sum())} without objects"
    if truth.clipped or truth.dropped:
        text += f"; boxes clipped to their image: {truth.clipped}, boxes without area dropped: {truth.dropped}"
    text += "".join(f"; {what}: {count}" for what, count in truth.notes.items())
    others = describe_passed_over(truth.passed_over)
    text += f"; files passed over: {others}" if others else ""
    present = set(truth.objects(rows)[1].tolist())
    absent = [name for label, name in enumerate(truth.categories.names) if label not in present]
    if absent and present:
        text += f"; no box of {first_names(absent)}"
    text += "" if present else "; WARNING: no object, so there is nothing to learn or to measure"
    return f"{text} ({truth.path})"


def _crowded_note(data: CocoDetection, most: int) -> str:
    """Return a warning if images have more objects than the `most` that a detector finds; else ""."""
    truth = data.annotations
    objects = np.bincount(truth.objects(data.indices)[0], minlength=1)
    images = int((objects > most).sum())
    if not images:
        return ""
    return f"; WARNING: images with more than {most} objects: {images} (up to {objects.max()}); raise --max-detections"


def _with_strips(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the detections of an image with their masks as strips, if there are masks, for drawing."""
    drawn = {name: found[name] for name in ("boxes", "labels", "scores")}
    return drawn | ({"strips": torch.from_numpy(strips_of_codes(found["rles"]))} if "rles" in found else {})


def _arrays(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        name: value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()
        for name, value in values.items()
    }
