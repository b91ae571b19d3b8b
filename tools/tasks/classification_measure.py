"""Evaluation of the runs of train_cls.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import nn

from backbones.common.files import write_text
from backbones.common.run_files import MODEL_FILE, RESULTS_FILE
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from classification.data.source import ImageSource, Split
from classification.metrics import TopK, format_table, predictions_csv
from classification.model import Classifier, ViewAverage
from classification.multi_label import DEFAULT_THRESHOLD, LabelSets, format_label_sets, label_sets_csv
from classification.transforms import Normalise, Views
from tools.engine.bad_images import BadImages
from tools.engine.batches import Batch
from tools.engine.evaluation import Results
from tools.engine.experiment import Experiment
from tools.engine.measure import Measure
from tools.engine.run_folder import BEST
from tools.engine.task import Meta
from tools.evaluation.thresholds import calibration
from tools.processes import distributed
from tools.tasks.options import TrainClassifierOptions

EVAL_BATCH = 128  # largest number of images in one forward pass


class ClassificationMeasure(Measure[TopK | LabelSets]):
    """Evaluates classifiers on the validation images, and with `--train-eval` on training images.

    The metrics are those of `TopK`, or those of `LabelSets` if an image may have several classes.
    """

    def __init__(
        self, experiment: Experiment, options: TrainClassifierOptions, data: ImageSource, bad: BadImages
    ) -> None:
        super().__init__(experiment, bad)
        self.data, self.crops = data, options.data.test_crops
        self.thresholds = _thresholds(options, experiment, data)
        self.loader = self._loader("val")
        measurable = not options.run.eval_only and "train" in data.measurable
        self.train_images = options.data.train_eval if measurable else 0
        self.train_loader = self._loader("train", sample=self.train_images) if self.train_images else None

    def __call__(self, model: nn.Module) -> Results:
        results = super().__call__(model)
        if self.data.multi_label and not self.experiment.run.eval_only:
            # Write the thresholds with the weights that they belong to.
            self.experiment.measured_meta = {
                "thresholds": {name: entry["threshold"] for name, entry in results["per_class"].items()}
            }
        return results

    def new_evaluator(self) -> TopK | LabelSets:
        expected = self.data.expected("val")
        if self.data.multi_label:
            return LabelSets(self.data.classes, expected=expected, thresholds=self.thresholds)
        return TopK(self.data.classes, expected=expected, present=self.data.present("val"))

    def predictor(self, model: nn.Module) -> ViewAverage:
        assert isinstance(model, Classifier)
        return ViewAverage(model)

    def further_results(self, model: nn.Module) -> Results:
        """Return the accuracy metrics on training images, with names that begin with `train_`."""
        if self.train_loader is None:
            return {}
        expected = self.data.expected("train", self.train_images)
        kind = LabelSets if self.data.multi_label else TopK
        evaluator = kind(self.data.classes, prefix="train_", expected=expected)
        return self.evaluate(model, self.train_loader, evaluator)

    def conclude(self) -> Results:
        """Return the calibration of the most probable classes, before and after temperature scaling."""
        if self.data.multi_label:
            return {}
        rows = self.evaluator.rows()
        readable = rows["predicted"] >= 0
        correct = (rows["rank"] < 1)[readable]
        return {"calibration": calibration(rows["confidence"][readable].astype(np.float64), correct)}

    def write_predictions(self, folder: Path, evaluator: TopK | LabelSets) -> None:
        rows = evaluator.rows()
        names, classes = self.data.names("val", rows["index"]), self.data.classes
        if isinstance(evaluator, LabelSets):
            text = label_sets_csv(rows, names, classes, evaluator.thresholds(rows))
        else:
            text = predictions_csv(rows, names, classes)
        write_text(folder / "predictions.csv", text)

    def table(self, results: Results) -> str:
        return format_label_sets(results) if self.data.multi_label else format_table(results)

    def write_samples(self, model: nn.Module, folder: Path) -> str:
        return f"results and predictions are in {folder}"

    def kept_results(self) -> Results:
        """Return the entries of the run's earlier results.json; the new file keeps those that are not measured again.

        `--eval-only` does not measure the accuracy on training images, so the earlier value is kept.
        """
        path = self.experiment.folder / RESULTS_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _loader(self, split: Split, *, sample: int = 0) -> Iterable[Batch]:
        sizes = self.experiment.meta["input"]
        normalise = Normalise(tuple(sizes["mean"]), tuple(sizes["std"]))
        views = Views(self.crops, sizes["resize_size"], sizes["crop_size"], normalise, sizes["interpolation"])
        # Evaluation keeps no activations, so that twice the training batch fits. Each of ten crops takes memory.
        whole = self.experiment.eval_batch
        batch = {"center": min(EVAL_BATCH, 2 * whole), "ten": max(1, min(EVAL_BATCH, whole) // 4)}
        return self.data.eval_loader(
            split,
            views,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            batch_size=batch.get(self.crops, 1),  # whole images differ in size
            workers=self.experiment.workers,
            sample=sample,
        )


def evaluated_meta(options: TrainClassifierOptions, folder: Path) -> Meta:
    """Return the metadata of the weights that `--eval-only` evaluates; {} if there is none."""
    weights = options.model.weights
    if options.run.resume:
        return next((found for name in (MODEL_FILE, BEST) if (found := read_meta(folder / name))), {})
    return {} if weights == "none" else read_meta(resolve(weights))


def _thresholds(options: TrainClassifierOptions, experiment: Experiment, data: ImageSource) -> list[float] | None:
    """Return the thresholds of the weights that `--eval-only` evaluates; None to choose them on the images."""
    if not (options.run.eval_only and data.multi_label):
        return None
    known = evaluated_meta(options, experiment.folder).get("thresholds") or {}
    return [known.get(name, DEFAULT_THRESHOLD) for name in data.classes] if known else None
