"""Loads trained detectors for prediction: `load(run)(images)`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from backbones.common.bits import WHOLE_BITS
from backbones.common.devices import usable_device
from backbones.common.files import JsonObject
from backbones.common.images import Image, pixels_of, read_image
from backbones.common.keywords import known_keywords
from backbones.common.plugins import require as require_plugins
from backbones.common.results import shown
from backbones.errors import UserError, first_names
from backbones.norm import set_norm_eps
from backbones.trained import TrainedFile, TrainedModel, find, options_of, require_names
from backbones.weights.exported import is_exported
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from detection.data.annotations import CategoryMap
from detection.exported import ExportedDetector
from detection.faster_rcnn import FasterRCNN, build
from detection.options import DetectorOptions
from detection.predict import Predictor
from detection.published import register_models
from detection.results import Detections, Outlines
from detection.weights import untrained_categories

register_models()


class TrainedDetector(TrainedModel[Tensor, Detections]):
    """A trained detector: maps images to detections with category ids and names.

    Attributes:
        categories: ids and names by label, from label 1.
        predictor: computes detections in the chosen views.
        chosen: names of the categories to return; None for all.
        limits: least score by category id; None for the model's own limit.
    """

    model: FasterRCNN

    def __init__(
        self,
        trained: TrainedFile,
        predictor: Predictor,
        model: FasterRCNN,
        categories: CategoryMap,
        *,
        device: str | torch.device | None = None,
        precision: str | None = None,
        chosen: Sequence[str] | None = None,
        limits: Mapping[int, float] | None = None,
    ) -> None:
        transform, bits = model.transform, trained.bits
        read = partial(pixels, min_size=transform.min_size[-1], max_size=transform.max_size, bits=bits)
        super().__init__(trained, model, read, view=partial(shown, read=read), device=device, precision=precision)
        self.categories, self.predictor = categories, predictor.eval()
        self.chosen, self.limits = chosen, limits

    def _predict(self, images: Sequence[Tensor]) -> list[Detections]:
        found = self.predictor([image.to(self.device) for image in images])
        named = [self.named(each) for each in found]
        if self.predictor.outlines:
            named = [
                replace(own, outlines=Outlines(tuple(each["rles"]), (image.shape[-2], image.shape[-1])))
                for own, each, image in zip(named, found, images, strict=True)
            ]
        if self.limits is not None:
            least = [torch.tensor([self.limits[label] for label in each.labels.tolist()]) for each in named]
            named = [each.where(each.scores >= limit) for each, limit in zip(named, least, strict=True)]
        return named if self.chosen is None else [each.where(each.named(*self.chosen)) for each in named]

    def named(self, found: dict[str, Tensor]) -> Detections:
        """Return the detections of one image with category ids and names in place of labels, without masks."""
        boxes, scores, labels = (found[name].cpu() for name in ("boxes", "scores", "labels"))
        ids = torch.tensor([0, *self.categories.ids])[labels]
        names = tuple(self.categories.names[label - 1] for label in labels.tolist())
        return Detections(boxes.float(), scores.float(), ids, names, categories=self.categories.names)


@known_keywords("detection.load", typed=True)
def load(
    run: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    sizes: Sequence[int] | None = None,
    flip: bool | None = None,
    refine: bool | None = None,
    nms: float | None = None,
    score: float | Literal["best"] | None = None,
    classes: Sequence[str] | None = None,
    soft_nms: bool | None = None,
) -> TrainedDetector:
    """Load the detector of a run. It predicts as the run evaluated it.

        detector = detection.load("runs/det-20260101-120000")
        found = detector("street.jpg")  # or a list of paths, PIL images, arrays, tensors
        found.boxes, found.scores, found.labels, found.names
        found.masks  # [N, H, W] bool, of a detector that was trained with --masks

    Args:
        run: folder of the run, or one of its weights files; or a published detector: coco (torchvision's Faster R-CNN
            with ResNet-50 and FPN), coco-v2, coco-masks or coco-masks-v2 (Mask R-CNN).
        device: auto, cpu, cuda, cuda:1, mps; auto, the default, is a GPU if there is one.
        precision: auto, fp32, bf16 or fp16. By default the run's own.
        plugins: Python files or modules to import first, which register what the run needs; see `--plugin`.
        sizes: short sides in pixels to view an image at; () is the model's own. This and the following arguments are
            those of `detection.predict.Predictor`. By default the run's own.
        flip: also view images flipped left to right.
        refine: score the boxes found once more, and let overlapping boxes vote.
        nms: IoU above which the weaker of two boxes of a class is removed.
        score: least score of a detection, 0..1; "best" is the score with the highest F1 in the run's evaluation, for
            each class; by default the model's own limit, mostly 0.05.
        classes: names of the categories to return; by default all.
        soft_nms: lower the scores of overlapping boxes instead of removing boxes.

    Raises:
        UserError: there is no detector of this project at `run`, or an argument is out of range.
    """
    trained = find(run, task="detection", plugins=plugins)
    device = usable_device(device)  # before the errors that name the file
    with trained.building():
        categories = categories_of(trained.meta)
        model = rebuild(trained.meta, trained.path)
        predictor = _predictor(model, trained.config, sizes=sizes, flip=flip, refine=refine, nms=nms, soft_nms=soft_nms)
        limits = best_scores(trained) if score == "best" else None
        if score is not None:
            model.roi_heads.score_thresh = min(limits.values()) if limits else require_score(score)
        chosen = None if classes is None else require_names(classes, categories.names)
        return TrainedDetector(
            trained, predictor, model, categories, device=device, precision=precision, chosen=chosen, limits=limits
        )


def _predictor(
    model: FasterRCNN,
    config: JsonObject,
    *,
    sizes: Sequence[int] | None,
    flip: bool | None,
    refine: bool | None,
    nms: float | None,
    soft_nms: bool | None,
) -> Predictor:
    """Return the predictor of a model with the given views and suppression; None stands for the run's own."""
    return Predictor(
        model,
        sizes=(config.get("test_sizes") or ()) if sizes is None else sizes,
        flip=config.get("test_flip", False) if flip is None else flip,
        refine=config.get("refine", False) if refine is None else refine,
        nms=config.get("test_nms") if nms is None and not soft_nms else nms,
        soft_nms=(config.get("soft_nms", False) and nms is None) if soft_nms is None else soft_nms,
        outlines=True,
    )


def require_score(score: object) -> float:
    """Return a limit of scores.

    Raises:
        UserError: it is not a number within 0..1.
    """
    if not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise UserError(f'score={score!r}: must be between 0 and 1, or "best"')
    return score


def best_scores(trained: TrainedFile) -> dict[int, float]:
    """Return the score with the highest F1 of each category id, from the header of a run's weights.

    Raises:
        UserError: the run did not record them, because it is of an earlier version, or found no object.
    """
    found = trained.meta.get("best_scores")
    if not found:
        raise UserError(
            f"{trained.path}: has no best scores, which a training records if its last evaluation finds an object; "
            "name a number instead, such as 0.5"
        )
    return {int(key): float(score) for key, score in found.items()}


def pixels(image: Image, *, min_size: int, max_size: int, bits: int = WHOLE_BITS) -> Tensor:
    """Return the pixels `[3, H, W]` of an image, rotated as its EXIF orientation says.

    Args:
        image: a file, a PIL image, an array or a tensor.
        min_size, max_size: sides in pixels to which the detector resizes.
        bits: bits that the values of 16-bit images use.

    Raises:
        UserError: the image cannot be used, or is so long that its short side would be resized to less than a pixel.
    """
    found = pixels_of(image, partial(read_image, fix="replace it", bits=bits), apply_exif=True, bits=bits)
    height, width = found.shape[-2:]
    if min(min_size / min(height, width), max_size / max(height, width)) * min(height, width) < 1:
        name = image if isinstance(image, (str, os.PathLike)) else "an image"
        raise UserError(
            f"{name}: is {width}x{height} pixels, so thin that its short side would be resized to less than a "
            "pixel; crop the image"
        )
    return found


def from_file(path: str | os.PathLike[str], categories: CategoryMap) -> FasterRCNN:
    """Return the detector in a run's model.safetensors, with its labels mapped to the given categories.

    Raises:
        UserError: the file is not a detector of this project, or was trained on other categories.
    """
    path = resolve(path)
    meta = read_meta(path)
    if meta.get("task") != "detection":
        raise UserError(f"{path}: is not a detector of this project; name model.safetensors of a detection run")
    require_plugins(meta.get("plugins"), where=path)
    model = rebuild(meta, path, categories=categories)
    if absent := untrained_categories(model.load_report):
        raise UserError(
            f"{path}: was not trained on {len(absent)} of the data's categories ({first_names(absent)}); use a "
            "detector that was trained on them"
        )
    return model


def categories_of(meta: Mapping[str, Any]) -> CategoryMap:
    """Return the categories that a run's metadata records."""
    return CategoryMap(tuple(meta["category_ids"]), tuple(meta["category_names"]))


def rebuild(
    meta: Mapping[str, Any], weights: str | os.PathLike[str] | None, *, categories: CategoryMap | None = None
) -> FasterRCNN:
    """Build the detector that a run's metadata describes.

    Args:
        meta: from a weights file's header or a checkpoint.
        weights: the run's weights file. None leaves the weights random, for a state dict that is loaded later; batch
            norm is live then, because it cannot be frozen without weights.
        categories: of the detector's labels. By default those of the run.

    Raises:
        UserError: the weights do not fit.
        KeyError, TypeError, ValueError: the meta is not of this version of the project.
    """
    if is_exported(weights):
        assert weights is not None
        return ExportedDetector(weights, categories)
    options = options_of(DetectorOptions, meta)
    if weights is None and options.norm != "group":
        options = replace(options, norm="batch")
    categories, seen = categories or categories_of(meta), meta["input"]
    model = build_from_options(options, weights, categories=categories, mean=seen["mean"], std=seen["std"])
    if weights is None and meta["norm_eps"] is not None:
        set_norm_eps(model, meta["norm_eps"])
    return model


def build_from_options(
    options: DetectorOptions,
    weights: str | os.PathLike[str] | None,
    *,
    categories: CategoryMap,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> FasterRCNN:
    """Build the detector that a run's options describe, but leave `options.weights` and `options.freeze` to the caller.

    Args:
        categories: of the detector's labels.
        mean, std: normalisation of inputs in 0..1, one value per channel. By default those of the backbone.

    Raises:
        UserError: wrong options, or weights that cannot be read or do not fit.
    """
    if is_exported(weights):
        assert weights is not None
        return ExportedDetector(weights, categories)
    return build(
        options.backbone,
        len(categories),
        weights=weights,
        categories=categories,
        mean=mean,
        std=std,
        **options.keywords(),
    )
