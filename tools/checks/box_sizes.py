"""Describes the boxes of a data set, and proposes an image size and anchors that cover them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from backbones.common.files import JsonObject
from backbones.errors import first_names
from detection.rpn import ASPECT_RATIOS
from detection.settings import DetectorSettings

STRIDES = (4, 8, 16, 32, 64)  # of the FPN's levels
COVERED = 0.5  # IoU with an anchor from which a box counts as covered
LIMITS = (32, 96)  # pixels; COCO's limits of small, medium and large boxes, as the square root of the area
SIZES = ("small", "medium", "large")
SHORT_SIDES = (256, 320, 400, 480, 560, 640, 800, 1024, 1280)
SCALES = (2.0, 3.0, 4.0, 6.0, 8.0, 10.0)  # sides of anchors divided by the stride
WORTH = 0.01  # fraction of the boxes that a larger image, or other anchors, must cover in addition
MOST_BOXES = 20_000  # the coverage is computed for as many boxes, evenly spread
CLASSES = 20  # classes that a line lists


@dataclass(frozen=True)
class Boxes:
    """The N valid boxes of a split.

    Attributes:
        boxes: `[N, 4]` xyxy in pixels.
        sizes: height and width of the image of each box `[N, 2]`.
        names: class of each box.
    """

    boxes: np.ndarray
    sizes: np.ndarray
    names: Sequence[str]

    @property
    def sides(self) -> np.ndarray:
        """Square root of the area of each box in pixels `[N]`."""
        width, height = (self.boxes[:, 2:] - self.boxes[:, :2]).T
        return np.sqrt(width * height)

    @property
    def groups(self) -> np.ndarray:
        """Index of each box `[N]` in `SIZES`."""
        return np.searchsorted(LIMITS, self.sides, side="right")

    def sampled(self, count: int) -> Boxes:
        """Return at most `count` boxes, evenly spread."""
        rows = np.unique(np.linspace(0, len(self.boxes) - 1, count).round().astype(int))
        return Boxes(self.boxes[rows], self.sizes[rows], [self.names[row] for row in rows.tolist()])


def describe_boxes(boxes: Boxes) -> JsonObject:
    """Return number of boxes by class, and percentiles of their sides (pixels) and aspect ratios (height / width)."""
    width, height = (boxes.boxes[:, 2:] - boxes.boxes[:, :2]).T
    names, counts = np.unique(np.asarray(boxes.names, dtype=object).astype(str), return_counts=True)
    order = np.lexsort((names, -counts))
    fractions = np.bincount(boxes.groups, minlength=len(SIZES)) / len(boxes.boxes)
    return {
        "classes": {str(names[place]): int(counts[place]) for place in order},
        "side": np.percentile(boxes.sides, (5, 50, 95)).round(1).tolist(),
        "height_by_width": np.percentile(height / width, (5, 50, 95)).round(2).tolist(),
        "sizes": dict(zip(SIZES, fractions.round(4).tolist(), strict=True)),
    }


def describe_line(split: str, values: JsonObject) -> list[str]:
    """Return the lines of the report about the boxes of a split, from `describe_boxes`."""
    counts = [f"{name} {count}" for name, count in values["classes"].items()]
    side, ratio = (" / ".join(f"{each:g}" for each in values[name]) for name in ("side", "height_by_width"))
    sizes = ", ".join(f"{name} {fraction:.0%}" for name, fraction in values["sizes"].items())
    return [
        f"boxes of {split} by class: {first_names(counts, CLASSES)}",
        f"boxes of {split}: square root of the area {side} pixels, height / width {ratio} "
        f"(5 %, 50 %, 95 % of the boxes); {sizes}",
    ]


def coverage(boxes: Boxes, *, min_size: int, max_size: int, anchor_scale: float) -> np.ndarray:
    """Return whether some anchor of an FPN covers each box `[N]` with an IoU of 0.5 or more.

    Args:
        min_size, max_size: short side of the resized image in pixels, and largest long side.
        anchor_scale: side of an anchor divided by the stride of its level.
    """
    short, long = boxes.sizes.min(axis=1), boxes.sizes.max(axis=1)
    scaled = boxes.boxes * np.minimum(min_size / short, max_size / long)[:, None]
    best = np.zeros(len(scaled))
    for stride, ratio in product(STRIDES, ASPECT_RATIOS):
        # The anchors of a level stand at multiples of its stride; the nearest one has the largest IoU.
        middle = (scaled[:, :2] + scaled[:, 2:]) / 2
        middle = np.round(middle / stride) * stride
        side = int(anchor_scale * stride)
        half = np.array([side / np.sqrt(ratio), side * np.sqrt(ratio)]) / 2
        best = np.maximum(best, _iou(scaled, np.concatenate([middle - half, middle + half], axis=1)))
    return best >= COVERED


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    inner = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(axis=1)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (a, b)]
    return inner / (areas[0] + areas[1] - inner)


def propose(boxes: Boxes) -> list[JsonObject]:
    """Return the coverage of the default image size and anchors, and of a proposal, if the proposal covers more.

    Of all candidates whose coverage is within `WORTH` of the best one, the proposal has the smallest images, and of
    these the anchors nearest to the default. Images are not enlarged beyond twice their size.
    """
    sample, usual = boxes.sampled(MOST_BOXES), DetectorSettings()
    default = _covered(sample, usual.min_size, usual.max_size, usual.anchor_scale)
    largest = 2 * float(np.median(sample.sizes.min(axis=1)))
    short_sides = [side for side in SHORT_SIDES if side <= largest] or SHORT_SIDES[:1]
    aspect = float(np.median(sample.sizes.max(axis=1) / sample.sizes.min(axis=1)))
    found = [
        _covered(sample, side, round(side * max(aspect, usual.max_size / usual.min_size)), scale)
        for side, scale in product(short_sides, SCALES)
    ]
    best = max(each["covered"] for each in found)
    good = (each for each in found if each["covered"] >= best - WORTH)
    chosen = min(good, key=lambda each: (each["min_size"], abs(np.log(each["anchor_scale"] / usual.anchor_scale))))
    return [default, chosen] if chosen["covered"] > default["covered"] + WORTH else [default]


def _covered(boxes: Boxes, min_size: int, max_size: int, anchor_scale: float) -> JsonObject:
    covered = coverage(boxes, min_size=min_size, max_size=max_size, anchor_scale=anchor_scale)
    groups = {name: covered[boxes.groups == place] for place, name in enumerate(SIZES)}
    by_size = {name: round(float(each.mean()), 4) for name, each in groups.items() if len(each)}
    options = {"min_size": min_size, "max_size": max_size, "anchor_scale": anchor_scale}
    return {**options, "covered": round(float(covered.mean()), 4), **by_size}


def describe_proposals(proposals: Iterable[JsonObject]) -> list[str]:
    """Return the lines of the report about `propose`."""
    lines = []
    for title, each in zip(("default", "proposal"), proposals, strict=False):
        options = f"--min-size {each['min_size']} --max-size {each['max_size']} --anchor-scale {each['anchor_scale']:g}"
        sizes = ", ".join(f"{name} {each[name]:.0%}" for name in SIZES if name in each)
        lines.append(f"{title}: {options}: an anchor covers {each['covered']:.0%} of the boxes with IoU 0.5 ({sizes})")
    return lines
