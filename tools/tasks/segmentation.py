"""TODO-DOC tools/tasks/segmentation.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backbones.errors import UserError, require
from segmentation.data.folders import open_source
from segmentation.options import SegmentationDataOptions, SegmenterOptions
from tools.engine.options import RunOptions, TrainOptions, require_frozen
from tools.engine.recipes import named_recipe, resumed_config

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from segmentation import FCN, Predictor, Segmentation
    from segmentation.data.dataset import Source
    from tools.engine.bad_images import BadImages
    from tools.engine.run import Experiment


@dataclass
class Options:
    """Everything a segmentation run is told."""

    data: SegmentationDataOptions
    model: SegmenterOptions
    train: TrainOptions
    run: RunOptions

    def __post_init__(self) -> None:
        require_frozen(self.train, self.model.freeze)
        plain = not (self.data.window or self.data.test_scales or self.data.test_flip)
        rule = "is measured on whole images seen once; leave --window, --test-scales and --test-flip out"
        require(plain or not self.run.val_loss, "val_loss", self.run.val_loss, rule)


RECIPES = Path(__file__).resolve().parents[2] / "segmentation" / "recipes"


SAMPLES = 6  # rows of samples.png


def recipe(argv: Sequence[str]) -> Path | None:
    """Defaults: those of the run to resume, of `--recipe`, else standard for named data and shapes without."""
    return resumed_config(argv, prefix="seg") or named_recipe(argv, RECIPES)


def build(options: Options) -> tuple[Segmentation, Segmentation | None, FCN]:
    """Validation split, training split and net."""
    val = build_data(options, "val")
    train = None if options.run.eval_only else build_data(options, "train")
    return val, train, build_model(options, val.source, train)


def build_data(options: Options, split: Literal["train", "val"]) -> Segmentation:
    """A split, augmented for training or as it is for validation.

    Raises:
        UserError: where the files are missing, malformed or of no known layout.
    """
    import numpy as np

    from segmentation.data.dataset import Segmentation
    from segmentation.transforms import Augment

    data = options.data
    source = open_source(data, split)
    places = np.arange(len(source))[: data.limit]
    if split == "train" and options.train.fraction < 1:
        places = _share(Segmentation(source, Augment("eval"), indices=places), options)
    augment = Augment(data.augment if split == "train" else "eval", data.crop_size, data.scales, seed=options.run.seed)
    return Segmentation(source, augment, indices=places)


def build_model(options: Options, source: Source, train: Segmentation | None) -> FCN:
    """The net that the options describe, for the classes of the data, with its loss.

    Raises:
        UserError: for weights that do not fit, or, without training, that were made for other classes.
    """
    import torch

    from segmentation.data.labels import median_frequency_weights
    from segmentation.losses import PixelLoss
    from segmentation.trained import build_from_options

    model = options.model
    weights = None if model.weights == "none" else model.weights
    loss = None if train is None else PixelLoss(model.loss)
    net = build_from_options(model, weights, num_classes=len(source.classes), loss=loss)
    _check_classes(options, source, net)
    if train is not None:
        _require_same_classes(train.source, source)
        if model.class_weights == "median":
            net.loss.set_class_weights(torch.from_numpy(median_frequency_weights(_pixel_counts(train))))
        net.freeze_stages(model.freeze)
    return net


def meta(options: Options, source: Source, model: FCN) -> dict[str, Any]:
    """What the weights were made for; kept with them."""
    backbone = model.backbone
    return {
        "task": "segmentation",
        "classes": list(source.classes.names),
        "colours": [list(colour) for colour in source.classes.colours],
        "input": {
            "in_channels": backbone.in_channels,
            "min_size": options.data.min_size,
            "mean": list(backbone.mean),
            "std": list(backbone.std),
        },
        "model": asdict(options.model),
    }


def show_plan(
    experiment: Experiment, options: Options, train: Segmentation | None, val: Segmentation, model: FCN, steps: int
) -> None:
    """Say what is about to be trained, on what and how."""
    from segmentation.metrics import POLICY
    from tools.engine.optim import rate_rows
    from tools.engine.plan import print_plan
    from tools.processes import distributed

    world, data = distributed.world_size(), options.data
    strides = ", ".join(f"{info.name} at stride {info.stride}" for info in model.backbone.feature_info)
    look = f"; augment {data.augment}, crop {data.crop_size}"
    rows = {
        "run folder": experiment.folder,
        "model": f"{options.model.head}, {options.model.backbone} ({strides}), weights {options.model.weights}",
        "loaded": model.load_report or "nothing: random weights",
        "norm layers": experiment.norms(model),
        "classes": len(val.source.classes),
        "train": f"{len(train)} images ({train.source.where}){look}" if train else "none: evaluation only",
        "val": f"{len(val)} images ({val.source.where}), at their own size; {POLICY}",
        "processes": f"{world} on {experiment.device.type}, {experiment.precision().dtype}".replace("torch.", ""),
        "batch": f"{options.train.batch_size} = {world} x {experiment.process_batch} x {options.train.accumulate} "
        "accumulated",
        **rate_rows(model, options.train),
        "loss": f"{options.model.loss}, class weights {options.model.class_weights}",
        "steps": f"{options.train.epochs} epochs x {steps} = {options.train.epochs * steps}",
    }
    if train is None:
        rows = {name: rows[name] for name in rows if name not in ("batch", "lr", "stages", "loss", "steps")}
    print_plan(rows)


class Measure:
    """Evaluates a model on the validation split, and writes what a run leaves behind."""

    def __init__(self, experiment: Experiment, options: Options, data: Segmentation, bad: BadImages) -> None:
        from backbones.common.loading import loader
        from segmentation.data.dataset import collate_whole
        from tools.processes import distributed

        self.experiment, self.options, self.data, self.bad = experiment, options.data, data, bad
        batching: dict[str, Any] = {"batch_sampler": distributed.shard(len(data), min(8, experiment.eval_batch))}
        workers = experiment.workers
        self.loader = bad.evaluation(loader, data, workers=workers, collate=collate_whole, **batching)
        self.metrics: Any = None

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """Figures of a model, the same on every process."""
        from segmentation.metrics import LabelMetrics
        from tools.engine.evaluation import evaluate

        self.metrics = LabelMetrics(self.data.source.classes.names, keep=True)
        precision, losses = self.experiment.precision(), self.experiment.run.val_loss
        results = evaluate(self._predictor(model), self.loader, self.metrics, precision=precision, losses=losses)
        return {**results, **self.bad.counted()}

    def report(self, model: nn.Module, results: dict[str, Any], costs: dict[str, Any]) -> None:
        """Print the table; write `results.json`, `predictions.zip` and `samples.png` on the main process."""
        from backbones.common.files import write_json
        from segmentation.label_maps import write_maps
        from segmentation.metrics import format_table
        from tools.processes import distributed

        if not distributed.is_main():
            return
        folder = self.experiment.folder
        write_json(folder / "results.json", {**results, **self.bad.listed(), **costs}, indent=None)
        if self.metrics is not None:
            write_maps(folder, self.metrics.maps, self.data.source.file)
        print(format_table(results))
        self._draw(model, folder / "samples.png")
        print(f"results and pictures are in {folder}; image, truth and prediction: {folder / 'samples.png'}")

    def _predictor(self, model: Any) -> Predictor:
        from segmentation.predict import Predictor

        seen = self.options
        seeing: dict[str, Any] = {"min_size": seen.min_size, "window": seen.window, "overlap": seen.overlap}
        return Predictor(model, **seeing, scales=seen.test_scales or (1.0,), flip=seen.test_flip)

    def _draw(self, model: nn.Module, path: Path) -> None:
        """Draw images spread evenly over the split."""
        import numpy as np
        import torch

        from segmentation.draw import draw_samples

        count = min(SAMPLES, len(self.data))
        data = self.bad.omitting(self.data)
        items = [item for place in np.arange(count) * len(data) // count if (item := data[int(place)])]
        if not items:  # no image can be read
            return
        model.eval()
        with torch.inference_mode(), self.experiment.precision().autocast():
            found = self._predictor(model)([image.to(self.experiment.device) for image, _ in items])
        draw_samples(
            [image.permute(1, 2, 0).numpy() for image, _ in items],
            [target["mask"].numpy() for _, target in items],
            [labels.cpu().numpy() for labels in found],
            self.data.source.classes,
        ).save(path)


def _share(data: Segmentation, options: Options) -> np.ndarray:
    """Rows of the source that `--fraction` leaves."""
    import numpy as np

    from tools.engine.subset import share_of

    images, classes = np.nonzero(_pixel_counts(data))
    common: dict[str, Any] = {"names": data.source.classes.names, "train": options.train, "run": options.run}
    return data.indices[share_of(images, classes, size=len(data), **common)]


def _pixel_counts(data: Segmentation) -> np.ndarray:
    """Pixels of each class in each image `[N, K]`; every process reads its part of the label maps."""
    import numpy as np

    from tools.processes.distributed import all_gather, on_all, rank, world_size

    mine = range(rank(), len(data), world_size())
    parts = all_gather(on_all(lambda: data.pixel_counts(mine)))
    counts = np.empty((len(data), len(data.source.classes)), np.int64)
    for number, part in enumerate(parts):
        counts[number :: len(parts)] = part
    return counts


def _require_same_classes(train: Source, val: Source) -> None:
    """Refuse splits whose classes differ: numbers of one would mean other names in the other."""
    ours, theirs = train.classes.names, val.classes.names
    if ours != theirs:
        odd = sorted(set(ours) ^ set(theirs)) or [
            name for name, other in zip(ours, theirs, strict=True) if name != other
        ]
        raise UserError(f"classes of {train.where} and {val.where} differ ({', '.join(odd[:3])}); use one data set")


def _check_classes(options: Options, source: Source, net: FCN) -> None:
    """Without training, the weights must be a whole net's for these classes."""
    if not options.run.eval_only or options.run.resume:  # the checkpoint, which comes later, was made for them
        return
    from backbones.weights.files import read_meta
    from backbones.weights.hub import resolve

    weights = options.model.weights
    if weights == "none" or net.load_report is None:
        raise UserError("--eval-only: random weights predict nothing; name --weights")
    lacking = [name for name in net.load_report.missing if not name.startswith("aux_classifier.")]
    if lacking or not any(name.startswith("classifier.") for name in net.load_report.matched):
        raise UserError(f"--weights {weights}: is no segmentation net of {len(source.classes)} classes; train it first")
    made_for = read_meta(resolve(weights)).get("classes")
    if made_for is not None and tuple(made_for) != source.classes.names:
        odd = next((a, b) for a, b in zip(made_for, source.classes.names, strict=True) if a != b)
        raise UserError(f"--weights {weights}: was trained on other classes than the data's ({odd[0]}, not {odd[1]})")
