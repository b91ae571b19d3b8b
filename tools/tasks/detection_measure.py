"""Evaluation of detectors in a run: COCO metrics, detections.json and samples.png."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backbones.common.files import write_json
from backbones.common.loading import loader
from detection.data.dataset import CocoDetection, collate
from detection.draw import draw_samples
from detection.faster_rcnn import FasterRCNN
from detection.predict import Predictor
from detection.trained import from_file
from tools.engine.bad_images import BadImages
from tools.engine.batches import to_device
from tools.engine.evaluation import Results
from tools.engine.experiment import Experiment
from tools.engine.measure import Measure
from tools.evaluation.evaluator import CocoEvaluator
from tools.evaluation.summary import format_table
from tools.processes import distributed
from tools.tasks.options import TrainDetectorOptions

SAMPLES = 8  # rows of samples.png
EVAL_BATCH = 8  # largest number of images in one forward pass


class DetectionMeasure(Measure[CocoEvaluator]):
    """Evaluates detectors by COCO metrics.

    Raises:
        UserError: a file of `--ensemble` holds no detector, or one of other categories.
    """

    def __init__(
        self, experiment: Experiment, options: TrainDetectorOptions, data: CocoDetection, bad: BadImages
    ) -> None:
        super().__init__(experiment, bad)
        self.options, self.data = options, data
        self.others = self._ensemble()
        self.loader = bad.evaluation(
            loader,
            data,
            workers=experiment.workers,
            collate=collate,
            batch_sampler=distributed.shard(len(data), min(EVAL_BATCH, experiment.eval_batch)),
        )

    def new_evaluator(self) -> CocoEvaluator:
        truth = self.data.annotations
        return CocoEvaluator(
            truth.source if isinstance(truth.source, Path) else json.loads(truth.source),
            category_ids=truth.categories.ids,
            image_ids=truth.image_ids[self.data.indices].tolist(),
            engine=self.options.data.evaluator,
            protocol=truth.protocol,
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
        )

    def write_predictions(self, folder: Path, evaluator: CocoEvaluator) -> None:
        write_json(folder / "detections.json", evaluator.detections(), indent=None)

    def table(self, results: Results) -> str:
        return format_table(results)

    def write_samples(self, model: nn.Module, folder: Path) -> str:
        path = folder / "samples.png"
        self._draw(model, path)
        return f"results, detections and pictures are in {folder}; truth and detections side by side: {path}"

    def _ensemble(self) -> list[FasterRCNN]:
        """Load the further detectors of `--ensemble` onto the device of the run."""
        categories, files = self.data.annotations.categories, self.options.evaluation.ensemble or ()
        models = distributed.on_all(lambda: [from_file(path, categories) for path in files])
        return [model.to(self.experiment.device).to(memory_format=torch.channels_last) for model in models]

    def _draw(self, model: nn.Module, path: Path) -> None:
        """Draw the first images, those with objects before those without."""
        empty = self.data.annotations.empty()[self.data.indices]
        data = self.bad.omitting(self.data)
        items = (data[int(index)] for index in [*np.flatnonzero(~empty), *np.flatnonzero(empty)])
        # Images that cannot be read are None here.
        shown = list(islice((item for item in items if item), SAMPLES))
        if not shown:
            return
        images, truths = zip(*shown, strict=True)
        predictor = self.predictor(model).eval()
        with torch.inference_mode(), self.experiment.precision().autocast():
            found = predictor([to_device(image, self.experiment.device) for image in images])
        draw_samples(
            [image.permute(1, 2, 0).numpy() for image in images],
            [_arrays(truth) for truth in truths],
            [_arrays(detections) for detections in found],
            self.data.annotations.categories.names,
        ).save(path)


def _arrays(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        name: value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()
        for name, value in values.items()
    }
