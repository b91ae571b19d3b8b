"""A trained detector, ready to predict: `load(run)(images)`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backbones.common.images import Image, pixels_of
from backbones.errors import UserError
from backbones.trained import TrainedNet, find
from backbones.weights.files import read_meta
from backbones.weights.hub import resolve
from detection.data.annotations import CategoryMap
from detection.data.dataset import read_image
from detection.faster_rcnn import FasterRCNN, build
from detection.predict import Predictor
from detection.weights import set_norm_eps

NOT_OF_BUILD = ("backbone", "weights", "freeze")  # model options that `build` takes in other ways, or not at all


@dataclass(frozen=True)
class Detections:
    """What was found in an image, the best first; on the CPU.

    Attributes:
        boxes: `[N, 4]` xyxy in pixels of the image as given (a file: turned as its EXIF orientation says).
        scores: `[N]` in 0..1.
        labels: `[N]` category ids as in the data set's file.
        names: of the categories, one a box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, keep: Tensor) -> Detections:
        """Those that a mask `[N]` or places `[M]` choose."""
        places = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
        names = tuple(self.names[place] for place in places.tolist())
        return Detections(self.boxes[places], self.scores[places], self.labels[places], names)


class TrainedDetector(TrainedNet[Detections]):
    """A detector with its categories.

    Attributes:
        categories: ids and names by label, from label 1.
        predictor: how images are looked at: at several sizes, mirrored, boxes refined.
    """

    model: FasterRCNN
    categories: CategoryMap
    predictor: Predictor

    def _predict(self, images: Sequence[Tensor]) -> list[Detections]:
        found = self.predictor([image.to(self.device) for image in images])
        return [self._named(each) for each in found]

    def _named(self, found: dict[str, Tensor]) -> Detections:
        boxes, scores, labels = (found[name].cpu() for name in ("boxes", "scores", "labels"))
        ids = torch.tensor([0, *self.categories.ids])[labels]
        names = tuple(self.categories.names[label - 1] for label in labels.tolist())
        return Detections(boxes.float(), scores.float(), ids, names)


def load(
    run: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    **look: Any,
) -> TrainedDetector:
    """The detector that a run trained, predicting as the run evaluated it.

        detector = detection.load("runs/det-20260101-120000")
        found = detector("street.jpg")  # or a list of paths, PIL images, arrays, tensors
        found.boxes, found.scores, found.labels, found.names

    Args:
        run: its folder, or one of its weights files.
        device: absent: a GPU where there is one.
        precision: auto, fp32, bf16 or fp16; absent: the run's own.
        look: keywords of `detection.predict.Predictor` (sizes, flip, refine, nms) in place of the run's own.

    Raises:
        UserError: where there is no detector of ours.
    """
    trained = find(run, task="detection")
    with trained.understood():
        meta = trained.meta
        categories = CategoryMap(tuple(meta["category_ids"]), tuple(meta["category_names"]))
        net = rebuild(meta, trained.path, categories=categories)
        read = partial(pixels, min_size=net.transform.min_size[-1], max_size=net.transform.max_size)
        detector = TrainedDetector(trained, net, read, device=device, precision=precision)
        detector.categories, config = categories, trained.config
        own = {
            "sizes": config.get("test_sizes") or (),
            "flip": config.get("test_flip", False),
            "refine": config.get("refine", False),
            "nms": config.get("test_nms"),
        }
        detector.predictor = Predictor(net, **{**own, **look}).eval()
    return detector


def pixels(image: Image, *, min_size: int, max_size: int) -> Tensor:
    """Pixels `[3, H, W]` of an image, turned as its EXIF orientation says.

    Raises:
        UserError: where it cannot be used; where nothing of its narrow side would be left in the net.
    """
    found = pixels_of(image, partial(read_image, way_out="replace it"), turn=True)
    height, width = found.shape[-2:]
    if min(min_size / min(height, width), max_size / max(height, width)) * min(height, width) < 1:
        name = image if isinstance(image, (str, os.PathLike)) else "an image"
        raise UserError(f"{name}: is {width}x{height} pixels; its narrow side would vanish in the net, crop it")
    return found


def from_file(path: str | os.PathLike[str], categories: CategoryMap) -> FasterRCNN:
    """The detector of a run's `model.safetensors`, as it was trained, with labels of the given categories.

    Raises:
        UserError: where the file does not say what it holds, or was trained on other categories.
    """
    path = resolve(path)
    known = read_meta(path)
    if known.get("task") != "detection":
        raise UserError(f"{path}: is no detector of ours; name model.safetensors of a detection run")
    net = rebuild(known, path, categories=categories)
    strange = net.load_report.missing
    if strange:
        raise UserError(f"{path}: was not trained on {len(strange)} of the data's categories ({strange[0]}, ...)")
    return net


def rebuild(
    meta: Mapping[str, Any], weights: str | os.PathLike[str] | None, *, categories: CategoryMap | None = None
) -> FasterRCNN:
    """Build the detector that a run's `meta` describes, with the normalisation of that run.

    Args:
        meta: as the run's files hold it.
        weights: the run's weights file. None: random weights with live batch norm, to be filled by the caller.
        categories: of the labels; absent: those of the run.
    """
    categories = categories or CategoryMap(tuple(meta["category_ids"]), tuple(meta["category_names"]))
    options = dict(meta["model"])
    if weights is None:
        options["norm"] = "group" if options["norm"] == "group" else "batch"
    model = build_from_options(options, weights, categories)
    if weights is None and meta["norm_eps"] is not None:
        set_norm_eps(model, meta["norm_eps"])
    model.transform.image_mean, model.transform.image_std = list(meta["input"]["mean"]), list(meta["input"]["std"])
    return model


def build_from_options(
    options: Mapping[str, Any], weights: str | os.PathLike[str] | None, categories: CategoryMap
) -> FasterRCNN:
    """Build a detector from the model options of a run, by name."""
    own = {name: value for name, value in options.items() if name not in NOT_OF_BUILD}
    return build(options["backbone"], len(categories), weights=weights, categories=categories, **own)
