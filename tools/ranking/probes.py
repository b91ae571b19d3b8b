"""Linear probe and k nearest neighbours on frozen features. Samples of one image never vote for one another."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 10
FOLDS = 5
DECAY = 1e-3  # of the squared weights, relative to the mean cross-entropy of standardised features
STEPS = 100  # of L-BFGS at most


def knn_hits(
    features: np.ndarray, labels: np.ndarray, images: np.ndarray, *, neighbours: int = NEIGHBOURS
) -> np.ndarray:
    """Return for each sample `[N]` whether the nearest samples of other images vote for its label.

    Nearness is the cosine of two features. Each of the `neighbours` nearest samples votes with its cosine; equal votes
    go to the smaller label. A class that occurs in one image only is never predicted right.

    Args:
        features: `[N, D]`.
        labels: integers `[N]`.
        images: number of the image of each sample `[N]`.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    of_image = torch.from_numpy(np.unique(images, return_inverse=True)[1])
    target = torch.from_numpy(numbers)
    rows = F.normalize(torch.from_numpy(features).double(), dim=1)
    hits = []
    for begin in range(0, len(rows), 1024):
        part = slice(begin, begin + 1024)
        near = rows[part] @ rows.T
        near[of_image[part][:, None] == of_image[None]] = -torch.inf
        closeness, who = near.topk(min(neighbours, len(rows)), dim=1)
        closeness = closeness.clamp(min=-1).where(closeness.isfinite(), torch.zeros(()).double())
        votes = torch.zeros(len(near), len(classes), dtype=torch.double).scatter_add_(1, target[who], closeness)
        found = votes.argmax(dim=1)
        hits.append((found == target[part]) & (votes.max(dim=1).values > 0))
    return torch.cat(hits).numpy()


def probe_hits(
    features: np.ndarray, labels: np.ndarray, images: np.ndarray, *, seed: int, folds: int = FOLDS
) -> np.ndarray:
    """Return for each sample `[N]` whether a linear classifier that was fitted on other images predicts its label.

    The images are divided at random into folds. For each fold, multinomial logistic regression is fitted on the
    standardised features of the other folds.

    Args:
        features: `[N, D]`.
        labels: integers `[N]`.
        images: number of the image of each sample `[N]`.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    _, of_image = np.unique(images, return_inverse=True)
    count = int(of_image.max()) + 1
    fold = (np.random.default_rng(seed).permutation(count) % min(folds, count))[of_image]
    x, y = torch.from_numpy(features).double(), torch.from_numpy(numbers)
    hits = torch.zeros(len(x), dtype=torch.bool)
    for number in range(min(folds, count)):
        held = torch.from_numpy(fold == number)
        if held.all():  # a single image: nothing to fit on
            continue
        mean, std = x[~held].mean(dim=0), x[~held].std(dim=0, correction=0).clamp(min=1e-6)
        weights = _fit((x[~held] - mean) / std, y[~held], len(classes))
        hits[held] = ((x[held] - mean) / std @ weights[:-1] + weights[-1]).argmax(dim=1) == y[held]
    return hits.numpy()


def _fit(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return the weights `[D + 1, classes]` of logistic regression; the last row is the bias, which has no decay."""
    weights = torch.zeros(x.shape[1] + 1, classes, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weights[:-1] + weights[-1], y) + DECAY * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]  # torch types the closure as a function of floats
    return weights.detach()
