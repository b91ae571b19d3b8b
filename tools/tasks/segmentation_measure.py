"""Evaluation of segmentation models in a run: mIoU, predictions.zip and samples.png."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from backbones.common.loading import loader
from segmentation.data.dataset import Segmentation, collate_whole
from segmentation.draw import draw_samples
from segmentation.fcn import FCN
from segmentation.label_maps import write_maps
from segmentation.metrics import LabelMetrics, format_table
from segmentation.predict import Predictor
from tools.engine.bad_images import BadImages
from tools.engine.evaluation import Results
from tools.engine.experiment import Experiment
from tools.engine.measure import Measure
from tools.processes import distributed
from tools.tasks.options import TrainSegmenterOptions

SAMPLES = 6  # rows of samples.png
EVAL_BATCH = 8  # largest number of images in one forward pass


class SegmentationMeasure(Measure[LabelMetrics]):
    """Evaluates segmentation models by their mean intersection over union."""

    indent: ClassVar[int | None] = None  # results.json holds a confusion matrix

    def __init__(
        self, experiment: Experiment, options: TrainSegmenterOptions, data: Segmentation, bad: BadImages
    ) -> None:
        super().__init__(experiment, bad)
        self.options, self.data = options.data, data
        self.loader = bad.evaluation(
            loader,
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

    def table(self, results: Results) -> str:
        return format_table(results)

    def write_samples(self, model: nn.Module, folder: Path) -> str:
        path = folder / "samples.png"
        self._draw(model, path)
        return f"results and pictures are in {folder}; image, truth and prediction side by side: {path}"

    def _draw(self, model: nn.Module, path: Path) -> None:
        """Draw images spread evenly over the split."""
        count = min(SAMPLES, len(self.data))
        data = self.bad.omitting(self.data)
        indices = np.arange(count) * len(data) // count
        # Images that cannot be read are None here.
        items = [item for index in indices if (item := data[int(index)])]
        if not items:
            return
        model.eval()
        with torch.inference_mode(), self.experiment.precision().autocast():
            found = self.predictor(model)([image.to(self.experiment.device) for image, _ in items])
        draw_samples(
            [image.permute(1, 2, 0).numpy() for image, _ in items],
            [target["mask"].numpy() for _, target in items],
            [labels.cpu().numpy() for labels in found],
            self.data.source.classes,
        ).save(path)
