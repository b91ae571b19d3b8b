"""Samples positives and negatives of all images of a batch, while Python waits for a GPU only once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler


class Sample(NamedTuple):
    """Indices of the sampled positives and negatives of one image."""

    positive: Tensor
    negative: Tensor


def sample_of_images(labels: Sequence[Tensor], sampler: BalancedPositiveNegativeSampler) -> list[Sample]:
    """Return what `sampler` samples, drawn in another way: the best random keys, a fixed number of them.

    torchvision's sampler waits for a GPU twice for each image.

    Args:
        labels: for each image the labels of its boxes `[B]`: 1 and above for positives, 0 for negatives, -1 for boxes
            that are not sampled.
    """
    most = int(sampler.batch_size_per_image * sampler.positive_fraction)
    found, counts = [], []
    for label in labels:
        keys = random_keys(label)
        positive, negative = label >= 1, label == 0
        found.append(Sample(_best(keys, positive, most), _best(keys, negative, sampler.batch_size_per_image)))
        # Sample as many negatives as the positives leave room for.
        taken = positive.sum().clamp(max=most)
        counts.append(torch.stack([taken, negative.sum().minimum(sampler.batch_size_per_image - taken)]))
    sizes = torch.stack(counts).tolist()
    return [
        Sample(*(each[:n] for each, n in zip(own, size, strict=True))) for own, size in zip(found, sizes, strict=True)
    ]


def sample_rois(labels: Sequence[Tensor], sampler: BalancedPositiveNegativeSampler) -> list[Tensor]:
    """Return for each image the indices of the sampled boxes, positives first. See `sample_of_images`."""
    return [torch.cat(sample) for sample in sample_of_images(labels, sampler)]


def random_keys(label: Tensor) -> Tensor:
    """Return a random number for each box `[B]`."""
    return torch.rand(label.shape, device=label.device)


def _best(keys: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Return the indices of the largest keys, the largest first; those of boxes that are not chosen are the last."""
    return torch.where(chosen, keys, -1).topk(min(count, len(keys))).indices
