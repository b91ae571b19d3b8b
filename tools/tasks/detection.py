"""TODO-DOC tools/tasks/detection.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backbones.errors import UserError, require
from detection.data.folders import read_annotations
from detection.options import DataOptions, EvaluationOptions, ModelOptions
from tools.cli.parsing import peek_option
from tools.engine.options import RunOptions, TrainOptions, require_frozen
from tools.engine.recipes import resumed_config

if TYPE_CHECKING:
    from torch import nn

    from detection import CocoAnnotations, CocoDetection, FasterRCNN
    from detection.predict import Predictor
    from tools.engine.bad_images import BadImages
    from tools.engine.run import Experiment


@dataclass
class Options:
    """Everything a detection run is told."""

    data: DataOptions
    model: ModelOptions
    evaluation: EvaluationOptions
    train: TrainOptions
    run: RunOptions

    def __post_init__(self) -> None:
        require_frozen(self.train, self.model.frozen_stages)
        asked = self.evaluation
        rule = "is measured with --eval-only; train each net by itself first"
        require(self.run.eval_only or not asked.ensemble, "ensemble", asked.ensemble, rule)
        rule = "is measured on images seen once; leave --refine, --test-sizes, --test-flip and --ensemble out"
        require(asked == EvaluationOptions() or not self.run.val_loss, "val_loss", self.run.val_loss, rule)


RECIPES = Path(__file__).resolve().parents[2] / "detection" / "recipes"


SAMPLES = 8  # rows of samples.png


MADE_WITH = ("min_size", "max_size", "anchor_scale", "roi_samples")  # settings that weights are silent about


def recipe(argv: Sequence[str]) -> Path | None:
    """Defaults: those of the run to resume, of COCO where `--data` names a data set, else of the shapes."""
    if config := resumed_config(argv, prefix="det"):
        return config
    named = peek_option(argv, "data") or peek_option(argv, "val_annotations")
    return RECIPES / ("coco.yaml" if named else "shapes.yaml")


def build(options: Options) -> tuple[CocoDetection, CocoDetection | None, FasterRCNN]:
    """Validation split, training split and detector."""
    val = build_val(options)
    train = None if options.run.eval_only else build_train(options, val)
    return val, train, build_model(options, val.annotations)


def build_val(options: Options) -> CocoDetection:
    """The validation split."""
    from detection.data.dataset import CocoDetection, select
    from detection.transforms import Augment

    val = read_annotations(options.data, "val", absent_images=_absent(options))
    return CocoDetection(val, Augment("eval"), indices=select(val, limit=options.data.limit))


def build_train(options: Options, val: CocoDetection) -> CocoDetection:
    """The training split, which shares nothing with validation but the categories.

    Raises:
        UserError: where the categories differ, or no image is left.
    """
    from detection.data.dataset import CocoDetection, select
    from detection.transforms import Augment
    from tools.engine.subset import share_of

    data = options.data
    train = read_annotations(options.data, "train", absent_images=_absent(options))
    train.categories.require_same(val.annotations.categories, here=str(train.path), there=str(val.annotations.path))
    places = select(train, limit=data.limit, negatives=data.negatives)
    if not len(places):
        raise UserError(f"{train.path}: no image is left to train on; every one is without objects")
    images, classes = train.objects(places)
    common: dict[str, Any] = {"names": train.categories.names, "train": options.train, "run": options.run}
    places = places[share_of(images, classes, size=len(places), **common)]
    augment = Augment(data.augment, tuple(data.short_sides or ()), options.run.seed)
    return CocoDetection(train, augment, indices=places)


def build_model(options: Options, annotations: CocoAnnotations) -> FasterRCNN:
    """The detector that the options describe, for the categories of the data.

    Raises:
        UserError: for weights that do not fit, or, without training, that were made for other categories.
    """
    import detection

    model = options.model
    weights = None if model.weights == "none" else model.weights
    kept = {name: value for name, value in asdict(model).items() if name not in ("backbone", "weights", "freeze")}
    detector = detection.build(
        model.backbone, len(annotations.categories), weights=weights, categories=annotations.categories, **kept
    )
    strange = [name for name in getattr(detector.load_report, "missing", ()) if name.startswith("roi_heads.")]
    if options.run.eval_only and strange:
        raise UserError(
            f"--weights {weights}: was not trained on {len(strange)} of the data's categories ({strange[0]}, ...); "
            "leave --eval-only out to train them, or take data of the same categories"
        )
    if not options.run.eval_only:
        detector.freeze_stages(model.frozen_stages)
    return detector


def build_others(options: Options, annotations: CocoAnnotations, experiment: Experiment) -> list[FasterRCNN]:
    """The further detectors of an ensemble, on the run's device.

    Raises:
        UserError: for a file that is none of ours, or was trained on other categories.
    """
    import torch

    from detection.trained import from_file
    from tools.processes import distributed

    files = options.evaluation.ensemble or ()
    nets = distributed.on_all(lambda: [from_file(path, annotations.categories) for path in files])
    return [net.to(experiment.device).to(memory_format=torch.channels_last) for net in nets]


def meta(options: Options, annotations: CocoAnnotations, model: FasterRCNN) -> dict[str, Any]:
    """What the weights were made for; kept with them."""
    from detection.weights import norm_eps

    return {
        "task": "detection",
        "category_ids": list(annotations.categories.ids),
        "category_names": list(annotations.categories.names),
        "input": model.transform.describe(),
        "norm_eps": norm_eps(model),
        "model": asdict(options.model),
    }


def show_plan(
    experiment: Experiment,
    options: Options,
    train: CocoDetection | None,
    val: CocoDetection,
    model: FasterRCNN,
    steps: int,
) -> None:
    """Say what is about to be trained, on what and how."""
    from tools.engine.optim import rate_rows
    from tools.engine.plan import print_plan
    from tools.processes import distributed

    world, accumulate = distributed.world_size(), options.train.accumulate
    print_plan(
        {
            "run folder": experiment.folder,
            "model": f"Faster R-CNN, {options.model.backbone}, {options.model.neck}, weights {options.model.weights}",
            "loaded": f"{model.load_report or 'nothing: random weights'}{_other_settings(options.model)}",
            "norm layers": experiment.norms(model),
            "classes": len(val.annotations.categories),
            "train": _describe(train) if train else "none: evaluation only",
            "val": _describe(val),
            "processes": f"{world} on {experiment.device.type}, {experiment.precision().dtype}".replace("torch.", ""),
            "batch": f"{options.train.batch_size} = {world} x {experiment.process_batch} x {accumulate} accumulated",
            **rate_rows(model, options.train),
            "steps": f"{options.train.epochs} epochs x {steps} = {options.train.epochs * steps}",
        }
    )


class Measure:
    """Evaluates a model on the validation split, and writes what a run leaves behind."""

    def __init__(self, experiment: Experiment, options: Options, data: CocoDetection, bad: BadImages) -> None:
        from backbones.common.loading import loader
        from detection.data.dataset import collate
        from tools.processes import distributed

        self.experiment, self.data, self.bad, self.options = experiment, data, bad, options
        self.others = build_others(options, data.annotations, experiment)
        batching: dict[str, Any] = {"batch_sampler": distributed.shard(len(data), min(8, experiment.eval_batch))}
        self.loader = bad.evaluation(loader, data, workers=experiment.workers, collate=collate, **batching)
        self.evaluator: Any = None

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """COCO metrics of a model, the same on every process."""
        from tools.engine.evaluation import evaluate
        from tools.evaluation.evaluator import CocoEvaluator

        truth = self.data.annotations
        self.evaluator = CocoEvaluator(
            truth.source if isinstance(truth.source, Path) else json.loads(truth.source),
            category_ids=truth.categories.ids,
            image_ids=truth.image_ids[self.data.indices].tolist(),
            engine=self.options.data.evaluator,
            protocol=truth.protocol,
        )
        precision, losses = self.experiment.precision(), self.experiment.run.val_loss
        results = evaluate(self._predictor(model), self.loader, self.evaluator, precision=precision, losses=losses)
        return {**results, **self.bad.counted()}

    def report(self, model: nn.Module, results: dict[str, Any], costs: dict[str, Any]) -> None:
        """Print the table; write `results.json`, `detections.json` and `samples.png` on the main process."""
        from backbones.common.files import write_json
        from tools.evaluation import format_table
        from tools.processes import distributed

        if not distributed.is_main():
            return
        folder = self.experiment.folder
        write_json(folder / "results.json", {**results, **self.bad.listed(), **costs})
        write_json(folder / "detections.json", self.evaluator.detections(), indent=None)
        print(format_table(results))
        self._draw(model, folder / "samples.png")
        print(f"results, detections and pictures are in {folder}; truth beside detections: {folder / 'samples.png'}")

    def _predictor(self, model: Any) -> Predictor:
        from detection.predict import Predictor

        asked = self.options.evaluation
        sizes, nms = asked.test_sizes or (), asked.test_nms
        return Predictor([model, *self.others], sizes=sizes, flip=asked.test_flip, refine=asked.refine, nms=nms)

    def _draw(self, model: nn.Module, path: Path) -> None:
        """Draw the first images, those with objects before those without."""
        import numpy as np
        import torch

        from detection.draw import draw_samples
        from tools.engine.evaluation import to_device

        empty = self.data.annotations.empty()[self.data.indices]
        data = self.bad.omitting(self.data)
        items = (data[int(place)] for place in [*np.flatnonzero(~empty), *np.flatnonzero(empty)])
        shown = list(islice((item for item in items if item), SAMPLES))
        if not shown:  # no image can be read
            return
        images, truths = zip(*shown, strict=True)
        predictor = self._predictor(model).eval()
        with torch.inference_mode(), self.experiment.precision().autocast():
            found = predictor([to_device(image, self.experiment.device) for image in images])
        draw_samples(
            [image.permute(1, 2, 0).numpy() for image in images],
            [_arrays(truth) for truth in truths],
            [_arrays(detections) for detections in found],
            self.data.annotations.categories.names,
        ).save(path)


def _absent(options: Options) -> Literal["keep", "error"]:
    """What to do about images that are listed and not there."""
    return "keep" if options.run.on_bad_image == "skip" else "error"


def _other_settings(model: ModelOptions) -> str:
    """A warning where our own file was trained with other settings of what boxes are read from."""
    from backbones.weights.files import read_meta
    from backbones.weights.hub import resolve

    before, now = read_meta(resolve(model.weights)).get("model", {}), asdict(model)
    odd = [
        f"{name} {before[name]}, now {now[name]}" for name in MADE_WITH if name in before and before[name] != now[name]
    ]
    return f"; WARNING: made with {', '.join(odd)}" if odd else ""


def _describe(data: CocoDetection) -> str:
    truth, rows = data.annotations, data.indices
    text = f"{len(data)} images, {int((truth.offsets[rows + 1] - truth.offsets[rows]).sum())} boxes"
    text += f", {int(truth.empty()[rows].sum())} without objects"
    if truth.clipped or truth.dropped:
        text += f"; {truth.clipped} boxes of the file clipped to their image, {truth.dropped} without area dropped"
    return f"{text} ({truth.path})"


def _arrays(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()
        for name, value in values.items()
    }
