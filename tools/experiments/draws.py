"""Compares runs on repeated draws of the training images. Groups of runs have the same draws, so draws are paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

import numpy as np

from tools.experiments.cell_runs import CellRun
from tools.experiments.groups import Group
from tools.experiments.plan import DRAW, SEED, draws_images
from tools.runs.bootstrap import CONFIDENCE

WHOLE = -1  # stands for the draw of all training images
Table: TypeAlias = dict[int, dict[int, int]]  # draw -> seed -> index of the run


@dataclass(frozen=True)
class Estimate:
    """A mean over draws and seeds.

    Attributes:
        mean: the mean.
        variance: variance of this mean; None if one draw, or one seed, does not show it.
        freedom: degrees of freedom of the variance.
    """

    mean: float
    variance: float | None
    freedom: float


def is_drawn(group: Group) -> bool:
    """Return whether the runs of a group are trained on several draws of the training images."""
    return len({run.config.get(DRAW) for run in group.runs if draws_images(run.config)}) > 1


def table_of(runs: Sequence[CellRun]) -> Table:
    """Return the indices of runs by draw and seed. Runs on all training images have the draw `WHOLE`."""
    table: Table = {}
    for index, run in enumerate(runs):
        seed = int(run.config.get(SEED, 0))
        draw = run.config.get(DRAW) if draws_images(run.config) else WHOLE
        table.setdefault(seed if draw is None else int(draw), {})[seed] = index
    return table


def grid(table: Table, values: np.ndarray) -> np.ndarray:
    """Arrange values of runs by draw and seed, `[draws, seeds, ...]`.

    If not all draws have the same seeds, the seeds of each draw are averaged: `[draws, 1, ...]`.

    Args:
        values: a value, or an array, of each run, `[runs, ...]`.
    """
    seeds = {tuple(sorted(row)) for row in table.values()}
    if len(seeds) == 1:
        return np.stack([np.stack([values[row[seed]] for seed in sorted(row)]) for row in _rows(table)])
    return np.stack([values[list(row.values())].mean(0, keepdims=True) for row in _rows(table)])


def paired_runs(first: Sequence[CellRun], other: Sequence[CellRun]) -> tuple[list[CellRun], list[CellRun], int]:
    """Return the runs of two groups on the draws that both have, and the number of these draws.

    If fewer than two draws are common, such as with a group on all training images, return all runs and 0.
    """
    tables = [table_of(runs) for runs in (first, other)]
    common = {draw for draw in tables[0].keys() & tables[1].keys() if draw != WHOLE}
    if len(common) < 2:
        return list(first), list(other), 0
    kept = [{index for draw in common for index in table[draw].values()} for table in tables]
    a, b = ([runs[index] for index in sorted(rows)] for runs, rows in zip((first, other), kept, strict=True))
    return a, b, len(common)


def draws_interval(
    first: Sequence[CellRun],
    other: Sequence[CellRun],
    a: np.ndarray,
    b: np.ndarray,
    *,
    resampled: tuple[np.ndarray, np.ndarray] | None,
    paired: bool,
) -> tuple[float, float] | None:
    """Return the t-interval of the difference of two groups' means over draws, seeds and validation images.

    Args:
        first, other: runs of the groups.
        a, b: their scores in percent `[runs]`.
        resampled: scores of both groups on resamples of the images, as fractions `[runs, resamples]`; None: unknown.
        paired: whether the groups have the same draws, so that their differences are taken draw by draw.

    Returns:
        None if the runs have one draw, or one run, so that their variance is not known.
    """
    tables = [table_of(runs) for runs in (first, other)]
    grids = [grid(table, scores) for table, scores in zip(tables, (a, b), strict=True)]
    if paired:
        parts = [estimate(paired_grid(*grids))]
    elif any(len(table) == 1 and WHOLE not in table for table in tables):
        return None
    else:
        parts = [estimate(each) for each in grids]
    if any(part.variance is None for part in parts):
        return None
    shared = 0.0
    if resampled is not None and paired:
        by_draw = paired_grid(*(grid(table, each) for table, each in zip(tables, resampled, strict=True))).mean(1)
        shared = 100**2 * shared_variance(by_draw)
    elif resampled is not None:
        shared = 100**2 * shared_image_variance(*resampled)
    change = parts[0].mean if paired else parts[1].mean - parts[0].mean
    return t_interval(change, parts, shared=shared)


def paired_grid(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the differences of two grids `[draws, seeds, ...]`, by seed if the grids have the same number of seeds."""
    if first.shape[1] != other.shape[1]:
        first, other = (each.mean(1, keepdims=True) for each in (first, other))
    return other - first


def estimate(values: np.ndarray) -> Estimate:
    """Estimate the mean of scores `[draws, seeds]` and its variance over draws and seeds, both drawn at random.

    With J draws and K seeds, the variance of the mean is (MS_draw + MS_seed - MS_rest) / JK, with the mean squares of a
    two-way analysis of variance without replication (Searle, Casella and McCulloch 1992, section 4.5). If draws and
    seeds vary less than their interaction, the smallest of the three is subtracted, so that the interval is not too
    narrow. The degrees of freedom are Satterthwaite's.
    """
    draws, seeds = values.shape
    middle = float(values.mean())
    if draws == 1 or seeds == 1:
        count = values.size
        return Estimate(middle, float(values.var(ddof=1)) / count if count > 1 else None, count - 1)
    by_draw, by_seed = values.mean(1), values.mean(0)
    rest = values - by_draw[:, None] - by_seed + middle
    squares = np.array(
        [seeds * by_draw.var(ddof=1), draws * by_seed.var(ddof=1), (rest**2).sum() / ((draws - 1) * (seeds - 1))]
    )
    freedoms = np.array([draws - 1, seeds - 1, (draws - 1) * (seeds - 1)])
    total = squares[0] + squares[1] - squares.min()
    uncertainty = (squares**2 / freedoms).sum()
    freedom = float(total**2 / uncertainty) if uncertainty else np.inf
    return Estimate(middle, float(total) / values.size, freedom)


def t_interval(change: float, parts: Sequence[Estimate], *, shared: float) -> tuple[float, float]:
    """Return the t-interval of a difference with variances of several estimates.

    Args:
        change: the difference.
        parts: estimates whose variances, which must be known, add.
        shared: variance over the validation images that all runs share, which counts as known exactly.
    """
    from scipy.stats import t  # slow to import

    total = sum(part.variance or 0.0 for part in parts) + shared
    uncertainty = sum((part.variance or 0.0) ** 2 / part.freedom for part in parts)
    freedom = total**2 / uncertainty if uncertainty else np.inf
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * sqrt(total)
    return change - reach, change + reach


def shared_image_variance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the variance over the images of the difference of two groups' means, as far as all seeds share it.

    Images move the score of each seed by an amount that is its own, too. The variance between the seeds contains that
    amount already, so it is subtracted here.

    Args:
        a, b: scores on the same resamples of the images `[seeds, resamples]`, at least two seeds each.
    """
    total = np.nanvar(b.mean(0) - a.mean(0))
    own = [np.nanvar(each - each.mean(0), axis=1).sum() / (len(each) - 1) / len(each) for each in (a, b)]
    return max(0.0, float(total - sum(own)))


def shared_variance(differences: np.ndarray) -> float:
    """Return the variance over the validation images of the mean difference, as far as all draws share it.

    Args:
        differences: differences of paired draws on the same resamples of the images, `[draws, resamples]`.
    """
    middle = differences.mean(0)
    own = np.nanvar(differences - middle, axis=1).sum() / (len(differences) - 1) / len(differences)
    return max(0.0, float(np.nanvar(middle) - own))


def _rows(table: Mapping[int, dict[int, int]]) -> list[dict[int, int]]:
    return [table[draw] for draw in sorted(table)]
