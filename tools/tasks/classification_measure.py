"""Evaluation of classifiers in a run: accuracy and predictions.csv."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from backbones.common.files import write_text
from classification.data.source import ImageSource, Split
from classification.metrics import TopK, format_table, predictions_csv
from classification.model import Classifier, ViewAverage
from classification.transforms import Normalise, Views
from tools.engine.bad_images import BadImages
from tools.engine.batches import Batch
from tools.engine.evaluation import Results
from tools.engine.experiment import Experiment
from tools.engine.measure import Measure
from tools.processes import distributed
from tools.tasks.options import TrainClassifierOptions

EVAL_BATCH = 128  # largest number of images in one forward pass


class ClassificationMeasure(Measure[TopK]):
    """Evaluates classifiers by their accuracy on validation images, and on `--train-eval` training images."""

    def __init__(
        self, experiment: Experiment, options: TrainClassifierOptions, data: ImageSource, bad: BadImages
    ) -> None:
        super().__init__(experiment, bad)
        self.data, self.crops = data, options.data.test_crops
        self.loader = self._loader("val")
        measurable = not options.run.eval_only and "train" in data.measurable
        self.train_images = options.data.train_eval if measurable else 0
        self.train_loader = self._loader("train", sample=self.train_images) if self.train_images else None

    def new_evaluator(self) -> TopK:
        return TopK(self.data.classes, expected=self.data.expected("val"))

    def predictor(self, model: nn.Module) -> ViewAverage:
        assert isinstance(model, Classifier)
        return ViewAverage(model)

    def further_results(self, model: nn.Module) -> Results:
        """Return the accuracy on training images; the names of these metrics begin with `train_`."""
        if self.train_loader is None:
            return {}
        expected = self.data.expected("train", self.train_images)
        evaluator = TopK(self.data.classes, prefix="train_", expected=expected)
        return self.evaluate(model, self.train_loader, evaluator)

    def write_predictions(self, folder: Path, evaluator: TopK) -> None:
        rows = evaluator.rows()
        names = self.data.names("val", rows["index"])
        write_text(folder / "predictions.csv", predictions_csv(rows, names, self.data.classes))

    def table(self, results: Results) -> str:
        return format_table(results)

    def write_samples(self, model: nn.Module, folder: Path) -> str:
        return f"results and predictions are in {folder}"

    def kept_results(self) -> Results:
        """Return the results of the run that is measured again: `--eval-only` has no accuracy on training images."""
        path = self.experiment.folder / "results.json"
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
