"""Options of the three training commands. This module imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_type_hints

from backbones.common.category_options import CategoryOptions
from backbones.common.split_options import SplitOptions
from backbones.errors import require
from classification.options import ClassificationDataOptions, ClassifierOptions, ClassReadingOptions
from detection.options import DetectionDataOptions, DetectionEvaluationOptions, DetectorOptions
from segmentation.options import SegmentationDataOptions, SegmenterOptions
from tools.cli.parsing import FurtherValues
from tools.cli.plugins import PluginOptions
from tools.engine.options import RunOptions, SubsetOptions, TrainOptions, require_frozen
from tools.engine.recipes import named_recipe, options_of_weights, resumed_config

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class TrainClassifierOptions:
    """Options of train_cls.py."""

    data: ClassificationDataOptions
    reading: ClassReadingOptions
    model: ClassifierOptions
    train: TrainOptions
    run: RunOptions
    plugins: PluginOptions
    subset: SubsetOptions = field(default_factory=SubsetOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    categories: CategoryOptions = field(default_factory=CategoryOptions)

    def __post_init__(self) -> None:
        self.categories.require_images()
        require_frozen(self.train, self.model.freeze)
        names, count = self.subset.train_list, self.data.sample
        require(not (names and count), "sample", count, "cannot be combined with --train-list; leave one of them out")
        batch, accumulate = self.train.batch_size, self.train.accumulate
        # An indivisible batch size is refused later, with the number of processes in the message.
        even = batch % accumulate or batch // accumulate % 2 == 0
        mixes = self.data.mixup or self.data.cutmix
        require(even or not mixes, "batch_size", batch, "--mixup and --cutmix mix images in pairs; use an even number")


@dataclass
class TrainDetectorOptions:
    """Options of train_det.py."""

    data: DetectionDataOptions
    model: DetectorOptions
    evaluation: DetectionEvaluationOptions
    train: TrainOptions
    run: RunOptions
    plugins: PluginOptions
    subset: SubsetOptions = field(default_factory=SubsetOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    categories: CategoryOptions = field(default_factory=CategoryOptions)

    def __post_init__(self) -> None:
        require_frozen(self.train, self.model.frozen_stages)
        files = self.evaluation.ensemble
        require(
            self.run.eval_only or not files,
            "ensemble",
            files,
            "needs --eval-only, because each detector is trained alone; add --eval-only or leave --ensemble out",
        )
        plain = self.evaluation == DetectionEvaluationOptions()
        rule = "needs one pass over each image; leave out --refine, --soft-nms, --test-* and --ensemble"
        require(plain or not self.run.val_loss, "val_loss", self.run.val_loss, rule)


@dataclass
class TrainSegmenterOptions:
    """Options of train_seg.py."""

    data: SegmentationDataOptions
    model: SegmenterOptions
    train: TrainOptions
    run: RunOptions
    plugins: PluginOptions
    subset: SubsetOptions = field(default_factory=SubsetOptions)
    split: SplitOptions = field(default_factory=SplitOptions)

    def __post_init__(self) -> None:
        require_frozen(self.train, self.model.freeze)
        plain = not (self.data.tile or self.data.test_scales or self.data.test_flip)
        rule = "needs one pass over each whole image; leave out --tile, --test-scales and --test-flip"
        require(plain or not self.run.val_loss, "val_loss", self.run.val_loss, rule)


def classifier_recipe(argv: Sequence[str]) -> Path | None:
    """Return the YAML file that supplies the defaults: the config of the run to resume, or the `--recipe`."""
    return resumed_config(argv, prefix="cls") or named_recipe(argv, ROOT / "classification" / "recipes")


def detector_recipe(argv: Sequence[str]) -> Path | None:
    """Return the YAML file that supplies the defaults: the config of the run to resume, or a recipe.

    Without `--recipe`, the recipe is COCO's if data is given, otherwise that of the built-in shapes.
    """
    return resumed_config(argv, prefix="det") or named_recipe(argv, ROOT / "detection" / "recipes", of_data="coco")


def describe_detector_recipe(options: TrainDetectorOptions) -> str:
    """Return the name of a run's recipe and why it was chosen, for the plan."""
    data = options.data
    if options.run.resume:
        return "none: the options are those of the run that is resumed"
    if data.recipe != "auto":
        return f"{data.recipe}: --recipe names it"
    if any((data.data, data.annotations, data.train_annotations, data.val_annotations)):
        return "coco: data is given; --recipe small suits a few hundred images, coco-lsj a long training"
    return "shapes: no data is given"


def segmenter_recipe(argv: Sequence[str]) -> Path | None:
    """Return the YAML file that supplies the defaults: the config of the run to resume, or the `--recipe`."""
    return resumed_config(argv, prefix="seg") or named_recipe(argv, ROOT / "segmentation" / "recipes")


TrainingOptions = TrainClassifierOptions | TrainDetectorOptions | TrainSegmenterOptions


@dataclass(frozen=True)
class TrainingCommand:
    """Describes the command line of a training command.

    Attributes:
        task: detection, segmentation or classification.
        options: dataclass of option groups, for `tools.cli.parsing.parse`.
        recipe: function from the command line to the YAML file that supplies the defaults.
    """

    task: str
    options: type[TrainingOptions]
    recipe: Callable[[Sequence[str]], Path | None]

    @property
    def groups(self) -> list[type]:
        """Return the option groups."""
        return list(get_type_hints(self.options).values())

    def of_weights(self, argv: Sequence[str]) -> FurtherValues:
        """Return the options of the model that the header of `--weights` records."""
        model = get_type_hints(self.options)["model"]
        return options_of_weights(argv, task=self.task, groups=self.groups, model=model)


# By the name of the command in tools/, without .py.
COMMANDS: dict[str, TrainingCommand] = {
    "train_cls": TrainingCommand("classification", TrainClassifierOptions, classifier_recipe),
    "train_det": TrainingCommand("detection", TrainDetectorOptions, detector_recipe),
    "train_seg": TrainingCommand("segmentation", TrainSegmenterOptions, segmenter_recipe),
}
