"""RoIs of all images of a batch: the outputs of the box head, and the sample to train on."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Scored(NamedTuple):
    """Outputs of the box head for the boxes of all images.

    Attributes:
        logits: class logits `[R, K + 1]`, background first.
        deltas: box deltas `[R, 4 * (K + 1)]`.
        boxes: for each image the boxes `[B, 4]` to which the deltas are relative.
    """

    logits: Tensor
    deltas: Tensor
    boxes: list[Tensor]


class Sampled(NamedTuple):
    """RoIs to train on: one entry per image.

    Attributes:
        boxes: `[S, 4]` xyxy.
        objects: index of the true object of each RoI `[S]`.
        labels: class of each RoI `[S]`; 0 is the background, and RoIs of -1 are not used.
        truth: true box of each RoI `[S, 4]`; that of the background is not read.
        may_ignore: whether labels may be -1.
    """

    boxes: list[Tensor]
    objects: list[Tensor]
    labels: list[Tensor]
    truth: list[Tensor]
    may_ignore: bool = False
