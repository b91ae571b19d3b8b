"""LogME: how well a Bayesian linear model explains targets by frozen features (You et al. 2021)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STEPS = 100  # of the fixed-point iteration; it usually needs fewer than ten
CONVERGED = 1e-5  # relative change of alpha / beta at which the iteration ends


class Spectrum(NamedTuple):
    """Left singular vectors and squared singular values of features `[N, D]`, from which LogME is computed.

    Attributes:
        rows, columns: N and D.
        vectors: `[N, K]`, with K the smaller of N and D.
        squares: `[K]`, at least 0.
    """

    rows: int
    columns: int
    vectors: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Spectrum:
        """Decompose features `[N, D]`."""
        rows, columns = features.shape
        vectors, values, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
        return cls(rows, columns, vectors, values**2)


def logme(features: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean logarithm of the evidence per sample: higher means that features explain the targets better.

    Each column of the targets is modelled as y = F w + noise with w ~ N(0, 1 / alpha) and noise ~ N(0, 1 / beta). The
    evidence p(y | F) is maximised over alpha and beta by the fixed-point iteration of the paper's algorithm 1, in the
    basis of the singular vectors of F (algorithm 3). The result is the mean over the columns.

    Args:
        features: `[N, D]`.
        targets: labels `[N]` of integers, which become a one-hot column per class, or values `[N, K]` of a regression.

    Raises:
        ValueError: there are no samples, or features or targets are not finite.

    Source: You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", equations 1-4.
    """
    columns = _columns(targets)
    if not len(features) or len(features) != len(columns):
        raise ValueError(f"logme: {len(features)} rows of features for {len(columns)} of targets; give as many of both")
    if not (np.isfinite(features).all() and np.isfinite(columns).all()):
        raise ValueError("logme: features and targets must be finite")
    spectrum = Spectrum.of(features)
    return float(np.mean([_evidence(spectrum, column) for column in columns.T]))


def _columns(targets: np.ndarray) -> np.ndarray:
    """Return the columns to regress `[N, K]`: one per class for labels, the values themselves otherwise."""
    if targets.ndim == 1:
        return (targets[:, None] == np.unique(targets)[None]).astype(np.float64)
    return targets.astype(np.float64)


def _evidence(spectrum: Spectrum, target: np.ndarray) -> float:
    """Return the maximal log evidence of one column `[N]` divided by N."""
    count, width = spectrum.rows, spectrum.columns
    squares = spectrum.squares
    # Split the target into its squared coordinates along the singular vectors and what no feature reaches.
    reached = (spectrum.vectors.T @ target) ** 2
    outside = max(float(target @ target - reached.sum()), 0.0)
    alpha = beta = 1.0
    for _ in range(STEPS):
        ratio = alpha / beta
        # gamma is the effective number of weights, |m|^2 the squared length of their mean (equation 3).
        gamma = float((squares / (squares + ratio)).sum())
        weights = float((squares * reached / (squares + ratio) ** 2).sum())
        residual = float((reached * (ratio / (squares + ratio)) ** 2).sum()) + outside
        # The updates of equation 4. The small numbers keep a perfect fit and a constant zero finite.
        alpha = max(gamma, 1e-12) / max(weights, 1e-12)
        beta = max(count - gamma, 1e-12) / max(residual, 1e-12)
        if abs(alpha / beta - ratio) <= CONVERGED * ratio:
            break
    ratio = alpha / beta
    weights = float((squares * reached / (squares + ratio) ** 2).sum())
    residual = float((reached * (ratio / (squares + ratio)) ** 2).sum()) + outside
    # The logarithm of the determinant of alpha I + beta F^T F; D - K of its eigenvalues are alpha.
    determinant = float(np.log(alpha + beta * squares).sum()) + (width - len(squares)) * np.log(alpha)
    evidence = count * np.log(beta) + width * np.log(alpha) - count * np.log(2 * np.pi)
    return (evidence - beta * residual - alpha * weights - determinant) / (2 * count)
