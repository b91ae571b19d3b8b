"""Segmentation losses: cross-entropy over all pixels or over the hardest ones, and cross-entropy plus Dice loss."""

from __future__ import annotations

from functools import reduce
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.common.processes import weighted
from segmentation.data.classes import IGNORE

HARDEST = 0.25  # fraction of the labelled pixels that "ohem" learns from


class PixelLoss(nn.Module):
    """Training loss: mean cross-entropy of the labelled pixels, or a variant of it.

    In training, the cross-entropy is weighted by the process's number of pixels (`processes.weighted`): averaging the
    gradients of all processes then gives the mean over the pixels of all. "ohem" and the Dice loss work on each
    process's own pixels.

    Args:
        kind: "ce"; "ohem" keeps the quarter of the labelled pixels with the largest loss (Shrivastava et al. 2016,
            there for regions); "dice" adds the Dice loss (Milletari et al. 2016) of segmentation_models.pytorch.
        class_weights: `[num_classes]`; the mean is weighted, as in `torch.nn.CrossEntropyLoss`.
    """

    class_weights: Tensor | None

    def __init__(self, kind: Literal["ce", "ohem", "dice"] = "ce", class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.kind = kind
        # Keep them out of the state dict: they describe the training data, not the model.
        self.register_buffer("class_weights", class_weights, persistent=False)
        if kind == "dice":
            from segmentation_models_pytorch.losses import DiceLoss

            self.dice = DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Map scores `[N, K, H, W]` and class numbers `[N, H, W]` to a scalar, which is 0 if no pixel is labelled."""
        return reduce(torch.add, self.terms("loss", scores, labels).values())

    def terms(self, name: str, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss by name: `name`, and with "dice" also `name` and "_dice".

        Args:
            scores: `[N, K, H, W]`.
            labels: class numbers `[N, H, W]`.
        """
        scores, labels = scores.float(), labels.long()
        loss = self._cross_entropy(scores, labels)
        labelled = labels != IGNORE
        if self.kind == "ohem":
            # Average the largest losses only; ignored pixels have a loss of 0 and come last.
            count = max(1, int(HARDEST * int(labelled.sum())))
            return {name: loss.flatten().topk(count).values.mean()}
        # Divide by the weights of the labelled pixels. reduction="mean" would give 0 / 0 if there are none.
        weight = labelled if self.class_weights is None else self._pixel_weights(labels, labelled)
        total = weight.sum().float()
        found = {name: loss.sum() / total.clamp(min=torch.finfo(torch.float32).tiny)}
        if self.training:
            found = weighted(found, total)
        return {**found, f"{name}_dice": self.dice(scores, labels)} if self.kind == "dice" else found

    def _cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted cross-entropy of each pixel `[N, H, W]`; 0 for ignored pixels."""
        if not torch.are_deterministic_algorithms_enabled():
            return F.cross_entropy(scores, labels, self.class_weights, ignore_index=IGNORE, reduction="none")
        # On GPUs the kernel for maps has no deterministic form, but the kernel for rows is deterministic.
        rows, flat = scores.movedim(1, -1).flatten(0, 2), labels.flatten()
        loss = F.cross_entropy(rows, flat, self.class_weights, ignore_index=IGNORE, reduction="none")
        return loss.view_as(labels)

    def _pixel_weights(self, labels: Tensor, labelled: Tensor) -> Tensor:
        """Return the class weight of each pixel `[N, H, W]`; 0 for ignored pixels."""
        assert self.class_weights is not None
        return self.class_weights[labels.clamp(max=len(self.class_weights) - 1)] * labelled


def median_frequency_weights(counts: np.ndarray) -> np.ndarray:
    """Return class weights `[K]` float32: the median of all classes' frequencies divided by each class's frequency.

    The frequency of a class is its number of pixels over all labelled pixels of the images that show it (Eigen and
    Fergus 2015). A class that no image shows gets the weight 1.

    Args:
        counts: pixels `[images, K]` of each class in each image.
    """
    shown = counts > 0
    totals = (shown * counts.sum(1, keepdims=True)).sum(0)
    known = totals > 0
    frequency = counts.sum(0)[known] / totals[known]
    weights = np.ones(counts.shape[1], np.float32)
    weights[known] = np.median(frequency) / frequency
    return weights
