"""Losses over pixels: cross-entropy, alone, on the hardest pixels, or with Dice."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.common.processes import mean
from segmentation.data.labels import IGNORE

Kind = Literal["ce", "ohem", "dice"]


KINDS = get_args(Kind)


HARDEST = 0.25  # share of the pixels that "ohem" learns from


class PixelLoss(nn.Module):
    """Mean cross-entropy of the labelled pixels.

    Several processes that train together divide by the mean of their counts, so that their mean is that over the pixels
    of all of them, however these lie. The hardest pixels and Dice are each process's own.

    Args:
        kind: "ce"; "ohem" takes the quarter of the labelled pixels with the largest loss (Shrivastava et al. 2016, by
            pixels); "dice" adds the Dice loss of segmentation_models.pytorch (Milletari et al. 2016).
        class_weights: `[num_classes]`; a weighted mean, as `torch.nn.CrossEntropyLoss` has it.
    """

    class_weights: Tensor | None

    def __init__(self, kind: Kind = "ce", class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.kind = kind
        # Not in the state dict: weights of the data are no weights of the net.
        self.register_buffer("class_weights", class_weights, persistent=False)
        if kind == "dice":
            from segmentation_models_pytorch.losses import DiceLoss

            self.dice = DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE)

    def set_class_weights(self, weights: Tensor) -> None:
        """Weight the classes `[num_classes]` of the cross-entropy, such as with those measured on the training data."""
        self.class_weights = weights

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores `[N, K, H, W]` and class numbers `[N, H, W]` -> a scalar; 0 where no pixel is labelled."""
        scores, labels = scores.float(), labels.long()
        loss = self._cross_entropy(scores, labels)
        labelled = labels != IGNORE
        if self.kind == "ohem":
            count = max(1, int(HARDEST * int(labelled.sum())))
            return loss.flatten().topk(count).values.mean()
        # Not reduction="mean": without a labelled pixel it is 0 / 0.
        weight = labelled if self.class_weights is None else self._weights(labels, labelled)
        total = weight.sum().float()
        loss = loss.sum() / (mean(total) if self.training else total).clamp(min=torch.finfo(torch.float32).tiny)
        return loss + self.dice(scores, labels) if self.kind == "dice" else loss

    def _cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Of each pixel: `[N, H, W]`."""
        options: dict[str, Any] = {"weight": self.class_weights, "ignore_index": IGNORE, "reduction": "none"}
        if not torch.are_deterministic_algorithms_enabled():
            return F.cross_entropy(scores, labels, **options)
        # The kernel over maps has no deterministic form on GPUs; that over rows needs none.
        return F.cross_entropy(scores.movedim(1, -1).flatten(0, 2), labels.flatten(), **options).view_as(labels)

    def _weights(self, labels: Tensor, labelled: Tensor) -> Tensor:
        assert self.class_weights is not None
        return self.class_weights[labels.clamp(max=len(self.class_weights) - 1)] * labelled
