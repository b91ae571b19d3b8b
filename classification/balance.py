"""Weights and repeats against unequal numbers of images of the classes."""

from __future__ import annotations

from typing import Literal

import numpy as np

from backbones.errors import UserError

Balance = Literal["balanced", "sqrt"]


def class_weights(labels: np.ndarray, classes: int, kind: Balance) -> np.ndarray:
    """Return the weight of each class in the loss, `[classes]` float32.

    For one class an image, "balanced" is `N / (classes * n_c)`, as in scikit-learn, and "sqrt" is proportional to its
    square root; the mean over the images is 1. For several classes an image, the weights are those of the positive
    examples: `(N - n_c) / n_c`, or its square root. Classes without images have the weight 1.

    Args:
        labels: labels of the training images, `[N]`, or `[N, classes]` bool for several classes an image.
        classes: number of classes.
        kind: "balanced" or "sqrt".
    """
    single = labels.ndim == 1
    counts = np.bincount(labels, minlength=classes) if single else labels.sum(0)
    known = counts > 0
    weights = np.ones(classes)
    rest = len(labels) if single else np.maximum(len(labels) - counts[known], 1)
    weights[known] = (rest / counts[known]) ** (1 if kind == "balanced" else 0.5)
    if single:
        weights *= len(labels) / (weights * counts).sum()
        weights[~known] = 1
    return weights.astype(np.float32)


def balanced_repeats(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return how often each image is used in an epoch on average, `[N]`, so that all classes are used equally often.

    The mean is 1. An image with several classes follows its rarest one; images without a class count as one more class.

    Args:
        labels: labels of the training images, `[N]`, or `[N, classes]` bool for several classes an image.
        classes: number of classes.

    Raises:
        UserError: there are no images.
    """
    if not len(labels):
        raise UserError("--sampling balanced: there are no training images; check --data")
    if labels.ndim == 2:
        counts = np.where(labels.any(0), labels.sum(0), len(labels) + 1)
        rarest = np.where(labels, counts, len(labels) + 2).argmin(1)
        labels = np.where(labels.any(1), rarest, classes)
    counts = np.bincount(labels, minlength=classes + 1)
    return (len(labels) / ((counts > 0).sum() * counts[labels])).astype(np.float64)
