"""Options of the three training commands. This module imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_type_hints

from backbones.common.category_options import CategoryOptions
from backbones.common.files import JsonObject, read_yaml
from backbones.common.split_options import SplitOptions
from backbones.errors import UserError, require
from classification.options import ClassificationDataOptions, ClassifierOptions, ClassReadingOptions
from detection.options import DetectionDataOptions, DetectionEvaluationOptions, DetectorOptions
from segmentation.options import SegmentationDataOptions, SegmenterOptions
from tools.cli.parsing import FurtherValues, peek_option
from tools.cli.plugins import PluginOptions
from tools.engine.options import RunOptions, SubsetOptions, TrainOptions, require_frozen
from tools.engine.recipes import (
    has_fewer_images,
    is_on,
    named_recipe,
    options_of_weights,
    paths_of_data,
    resumed_config,
)

ROOT = Path(__file__).resolve().parents[2]
CASCADE_NECKS = ("fpn", "dc5")  # necks without a box head of their own
SMALL = 5000  # images; data of fewer images trains with the recipe "small"


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


def resized_for_crop(argv: Sequence[str], recipe: JsonObject) -> JsonObject:
    """Return `resize_size` for a `--crop-size` that is given alone: it keeps the ratio of the recipe."""
    crop, own_crop, own_resize = peek_option(argv, "crop_size"), recipe.get("crop_size"), recipe.get("resize_size")
    if peek_option(argv, "resize_size") is not None or not str(crop).isdecimal() or not own_crop or not own_resize:
        return {}
    return {"resize_size": round(int(str(crop)) * own_resize / own_crop)}


def detector_recipe(argv: Sequence[str]) -> Path | None:
    """Return the YAML file that supplies the defaults: the config of the run to resume, or a recipe.

    Without `--recipe`, data of few images has the recipe "small" and other data "coco". An evaluation has "coco", whose
    image size is that of published figures. Without data the recipe is that of the built-in shapes.
    """
    of_data = _no_small_data if is_on(argv, "eval_only") else _recipe_of_data
    return resumed_config(argv, prefix="det") or named_recipe(argv, ROOT / "detection" / "recipes", of_data=of_data)


def one_box_head(argv: Sequence[str], recipe: JsonObject) -> JsonObject:
    """Return `cascade` as off if the recipe turns it on, but it does not fit.

    It fits neither a neck that brings its own box head, nor weights of a whole detector with one box head. With a mask
    branch, masks were better without it in short trainings (docs/RESULTS.md).
    """
    if not recipe.get("cascade"):
        return {}
    neck, weights = peek_option(argv, "neck"), peek_option(argv, "weights")
    if neck not in (None, *CASCADE_NECKS) or is_on(argv, "masks"):
        return {"cascade": False}
    if weights is None or str(weights) in ("none", "imagenet"):
        return {}
    from backbones.weights.hub import resolve  # imports torch
    from detection.weights import have_one_box_head

    with suppress(UserError):  # the builder of the model names what is wrong with the file
        return {"cascade": False} if have_one_box_head(resolve(str(weights)) or "") else {}
    return {}


def describe_detector_recipe(options: TrainDetectorOptions) -> str:
    """Return the name of a run's recipe and why it was chosen, for the plan."""
    paths = paths_of_data(vars(options.data))
    if options.run.resume:
        return "none: the options are those of the run that is resumed"
    if options.data.recipe != "auto":
        return f"{options.data.recipe}: --recipe names it"
    if not paths:
        return "shapes: no data is given"
    if options.run.eval_only:
        return "coco: an evaluation has COCO's image size"
    if _recipe_of_data(paths) == "small":
        heads = "" if options.model.cascade else ", here with one box head"
        return f"small{heads}: the data has fewer than {SMALL:,} images; --recipe coco is the usual schedule of COCO"
    return f"coco: the data has at least {SMALL:,} images, or none was found; --recipe coco-lsj is a long training"


def _recipe_of_data(paths: Sequence[Path]) -> str:
    return "small" if has_fewer_images(paths, SMALL) else "coco"


def _no_small_data(paths: Sequence[Path]) -> str:
    return "coco"


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
        following: function from the command line and the values of the recipe to defaults that follow from given
            options; None if there are none.
    """

    task: str
    options: type[TrainingOptions]
    recipe: Callable[[Sequence[str]], Path | None]
    following: Callable[[Sequence[str], JsonObject], JsonObject] | None = None

    @property
    def groups(self) -> list[type]:
        """Return the option groups."""
        return list(get_type_hints(self.options).values())

    def further(self, argv: Sequence[str]) -> FurtherValues:
        """Return the options that the header of `--weights` records, and those that follow from given options."""
        model = get_type_hints(self.options)["model"]
        found = options_of_weights(argv, task=self.task, groups=self.groups, model=model)
        if self.following is None or is_on(argv, "resume") or (recipe := self.recipe(argv)) is None:
            return found
        return replace(found, defaults={**found.defaults, **self.following(argv, read_yaml(recipe))})


# By the name of the command in tools/, without .py.
COMMANDS: dict[str, TrainingCommand] = {
    "train_cls": TrainingCommand("classification", TrainClassifierOptions, classifier_recipe, resized_for_crop),
    "train_det": TrainingCommand("detection", TrainDetectorOptions, detector_recipe, one_box_head),
    "train_seg": TrainingCommand("segmentation", TrainSegmenterOptions, segmenter_recipe),
}
