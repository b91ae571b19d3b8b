"""Computes labelled features of images with a frozen backbone, one image at a time.

The features do not depend on the number of processes, because no image shares a batch with another one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, roi_align

from backbones.base import Backbone
from backbones.errors import UserError
from tools.processes import distributed
from tools.ranking.data import Labelled, RankingData
from tools.ranking.samples import Samples

STEP = 32  # pixels; sides are multiples of it, so that no map needs padding
CELLS = 8  # label-map cells of an image that are scored
BINS = 4  # RoIAlign bins along each side, averaged to one vector a box
APART = 0.3  # largest IoU of background with an object, as in Faster R-CNN's RPN
JITTER = 0.15  # std of a moved box's centre in sides, and of the logarithm of its size
CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))  # Faster R-CNN's, whose deltas have about unit variance
IGNORE = 255
CPU = torch.device("cpu")


class Rows(NamedTuple):
    """Features of one image: `[N, D]` with labels `[N]`, and for boxes `[M, D]` with deltas `[M, 4]`."""

    features: np.ndarray
    labels: np.ndarray
    delta_features: np.ndarray
    deltas: np.ndarray


class Extracted(NamedTuple):
    """Samples of all images, and the images per second of one process."""

    samples: Samples
    speed: float


@torch.inference_mode()
def extract(backbone: Backbone, data: RankingData, *, size: int, seed: int, device: torch.device = CPU) -> Extracted:
    """Compute the samples of all images; every process computes a part and gets the whole.

    Args:
        backbone: in evaluation mode; all its feature maps are concatenated, each scaled to unit mean square length.
        size: short side of the images in pixels.
        seed: seed of the background boxes, the moved boxes and the cells.
        device: where the backbone computes. It returns to the CPU at the end.

    Raises:
        UserError: an image cannot be read, or the backbone does not give the feature maps that it declares.
    """
    backbone.eval().to(device).to(memory_format=torch.channels_last)
    begin = time.perf_counter()
    mine = range(distributed.rank(), len(data.names), distributed.world_size())

    def compute() -> list[tuple[int, Rows]]:
        return [(i, _rows(backbone, data.read(i), size, np.random.default_rng((seed, i)))) for i in mine]

    own = distributed.on_all(compute)
    backbone.to(CPU)
    speed = len(mine) / max(time.perf_counter() - begin, 1e-9)
    parts = sorted((each for part in distributed.all_gather(own) for each in part), key=lambda each: each[0])
    return Extracted(_joined(parts, [info.channels for info in backbone.feature_info]), speed)


def _rows(backbone: Backbone, image: Labelled, size: int, random: np.random.Generator) -> Rows:
    maps, scale = _maps(backbone, image.pixels, size)
    if image.boxes is not None and image.box_labels is not None and image.crowd is not None:
        return _box_rows(backbone, maps, image, scale, random)
    if image.classes is not None:
        return _cell_rows(maps, image.classes, random)
    pooled = torch.cat([each.mean(dim=(2, 3)) for each in maps], dim=1)
    return _without_deltas(pooled, np.array([image.label]))


def _maps(backbone: Backbone, pixels: np.ndarray, size: int) -> tuple[list[Tensor], tuple[float, float]]:
    """Return the feature maps of an image, and the factors of its width and height."""
    height, width = pixels.shape[:2]
    sides = [max(1, round(side * size / min(height, width) / STEP)) * STEP for side in (width, height)]
    shrinks = sides[0] < width
    resized = cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (backbone.mean, backbone.std))
    x = torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 255
    inputs = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
    maps = backbone(inputs.to(next(backbone.parameters(), inputs).device))
    return _checked_maps(backbone, maps, sides), (sides[0] / width, sides[1] / height)


def _checked_maps(backbone: Backbone, maps: object, sides: Sequence[int]) -> list[Tensor]:
    """Return the feature maps of an image in the order of `feature_info`.

    Args:
        maps: what the backbone returned.
        sides: width and height of the image.

    Raises:
        UserError: a map is missing, has another shape than declared, or has values that are not finite.
    """
    checked = []
    for info in backbone.feature_info:
        found = maps.get(info.name) if isinstance(maps, dict) else None
        expected = [1, info.channels, *(-(-side // info.stride) for side in sides[::-1])]
        if not isinstance(found, Tensor) or list(found.shape) != expected:
            given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"{backbone.name}: gives {given} as {info.name} instead of a map {expected}; correct forward() or "
                "feature_info of the backbone"
            )
        if not found.isfinite().all():
            raise UserError(f"{backbone.name}: {info.name} has values that are not finite; use other weights")
        checked.append(found.float().cpu())
    return checked


def _box_rows(
    backbone: Backbone,
    maps: Sequence[Tensor],
    image: Labelled,
    scale: tuple[float, float],
    random: np.random.Generator,
) -> Rows:
    """Return features of the true boxes and of as many background boxes (at least one), and of moved true boxes."""
    factors = torch.tensor([*scale, *scale])
    truth = torch.from_numpy(image.boxes).float() * factors
    taken = torch.cat([truth, torch.from_numpy(image.crowd).float() * factors])
    area = [side * factor for side, factor in zip(image.pixels.shape[1::-1], scale, strict=True)]
    background = _background(taken, (area[0], area[1]), max(1, len(truth)), random)
    moved = _moved(truth, random)
    near = box_iou(moved, truth).diagonal()
    moved, aims = moved[near >= 0.5], truth[near >= 0.5]
    strides = [info.stride for info in backbone.feature_info]
    pooled = torch.cat(
        [
            roi_align(each, [torch.cat([truth, background, moved])], BINS, 1 / stride, 2, aligned=True).mean(dim=(2, 3))
            for each, stride in zip(maps, strides, strict=True)
        ],
        dim=1,
    )
    count = len(truth) + len(background)
    labels = np.concatenate([np.asarray(image.box_labels, dtype=np.int64), np.zeros(len(background), np.int64)])
    deltas = CODER.encode_single(aims, moved) if len(moved) else torch.zeros(0, 4)
    return Rows(pooled[:count].numpy(), labels, pooled[count:].numpy(), deltas.numpy())


def _background(taken: Tensor, area: tuple[float, float], count: int, random: np.random.Generator) -> Tensor:
    """Draw boxes with the sizes of objects that overlap no object by more than `APART`; fewer if there is no room."""
    width, height = area
    tries = 20 * count
    sides = (taken[:, 2:] - taken[:, :2]) if len(taken) else torch.tensor([[width / 4, height / 4]])
    chosen = sides[torch.from_numpy(random.integers(len(sides), size=tries))]
    limit = torch.tensor([width, height])
    chosen = chosen.minimum(limit)
    corner = torch.from_numpy(random.random((tries, 2))).float() * (limit - chosen)
    boxes = torch.cat([corner, corner + chosen], dim=1)
    free = box_iou(boxes, taken).max(dim=1).values <= APART if len(taken) else torch.ones(tries, dtype=torch.bool)
    return boxes[free][:count]


def _moved(boxes: Tensor, random: np.random.Generator) -> Tensor:
    """Move and stretch boxes `[K, 4]` by normal noise, as proposals of an RPN lie around objects."""
    noise = torch.from_numpy(random.normal(0, JITTER, (len(boxes), 4))).float()
    sides, centre = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    centre, sides = centre + noise[:, :2] * sides, sides * noise[:, 2:].exp()
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=1)


def _cell_rows(maps: Sequence[Tensor], classes: np.ndarray, random: np.random.Generator) -> Rows:
    """Return features of random cells of the finest map in which one class has most of the pixels."""
    height, width = maps[0].shape[-2:]
    grown = [F.interpolate(each, size=(height, width), mode="bilinear", align_corners=False) for each in maps]
    table = torch.cat(grown, dim=1)[0].flatten(1).T
    labels = _cell_classes(classes, height, width)
    valid = np.flatnonzero(labels != IGNORE)
    chosen = np.sort(random.permutation(valid)[:CELLS])
    return _without_deltas(table[torch.from_numpy(chosen)], labels[chosen])


def _cell_classes(classes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the class of more than half of the pixels of each of `height * width` cells; `IGNORE` without one."""
    rows = (np.arange(classes.shape[0]) * height // classes.shape[0])[:, None]
    columns = (np.arange(classes.shape[1]) * width // classes.shape[1])[None]
    cell = (rows * width + columns).ravel()
    counts = np.bincount(cell * 256 + classes.ravel(), minlength=height * width * 256).reshape(-1, 256)
    best = counts.argmax(axis=1)
    return np.where(2 * counts.max(axis=1) > counts.sum(axis=1), best, IGNORE)


def _without_deltas(features: Tensor, labels: np.ndarray) -> Rows:
    return Rows(features.numpy(), labels, np.zeros((0, features.shape[1]), np.float32), np.zeros((0, 4), np.float32))


def _joined(parts: Sequence[tuple[int, Rows]], channels: Sequence[int]) -> Samples:
    """Join the rows of all images, and scale the channels of each feature map to unit mean square length."""
    features, labels, delta_features, deltas = (
        np.concatenate(column) for column in zip(*(r for _, r in parts), strict=True)
    )
    images = np.repeat([index for index, _ in parts], [len(rows.labels) for _, rows in parts])
    delta_images = np.repeat([index for index, _ in parts], [len(rows.deltas) for _, rows in parts])
    scales = np.concatenate(
        [
            np.full(each.shape[1], 1 / max(float(np.sqrt((each.astype(np.float64) ** 2).sum(axis=1).mean())), 1e-12))
            for each in np.split(features, np.cumsum(channels)[:-1], axis=1)
        ]
    ).astype(np.float32)
    if not len(deltas):
        return Samples(features * scales, labels, images)
    return Samples(features * scales, labels, images, deltas, delta_features * scales, delta_images)
