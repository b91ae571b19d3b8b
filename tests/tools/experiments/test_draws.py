"""Runs on repeated draws of the training images: pairing, variance over draws and seeds, coverage of the interval."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from tools.experiments.cell_runs import CellRun
from tools.experiments.cells import Cell, make_cells
from tools.experiments.differences import find_differences
from tools.experiments.draws import draws_interval, estimate
from tools.experiments.groups import group_runs
from tools.experiments.plan import Plan, matrix_of, to_arguments
from tools.runs.metrics import TASK_METRICS

TOP1 = TASK_METRICS["classification"].primary
AXES = ["backbone", "fraction", "draw", "seed"]


def run(name: str, draw: int, seed: int, score: float, fraction: float = 0.1) -> CellRun:
    """A finished run whose predictions cannot be read, so that intervals cover draws and seeds alone."""
    config = {"backbone": name, "fraction": fraction, "draw": draw, "seed": seed, "test_crops": "center"}
    cell = Cell(f"{name}-{fraction}-{draw}-{seed}", "train_cls", (), config, {})
    return CellRun(cell, Path("nowhere") / cell.name, {"top1": score}, [])


def test_groups_of_the_same_draws_are_paired():
    """Draws differ by 20 points, the groups by 2 +- 1 in each draw: t of three paired differences 1, 2, 3."""
    pairs = {1: (0.40, 0.41), 2: (0.50, 0.52), 3: (0.60, 0.63)}
    runs = [run(n, draw, 0, scores[i]) for i, n in enumerate("ab") for draw, scores in pairs.items()]
    (found,) = find_differences(group_runs(runs, AXES), TOP1)
    reach = t.ppf(0.975, 2) / 3**0.5  # standard deviation 1
    assert found.both == (pytest.approx(2 - reach), pytest.approx(2 + reach))
    assert found.statement().endswith("3 runs on 3 paired draws; not distinguishable")
    # A draw that one group lacks is left out; a fourth run does not change the pairs.
    (again,) = find_differences(group_runs([*runs, run("b", 4, 0, 0.9)], AXES), TOP1)
    assert again == found


def test_variance_of_the_mean_over_draws_and_seeds_by_hand():
    """Rows are draws. Mean squares: draws 2 * 8 = 16, seeds 2 * 2 = 4, rest 0, of means 10, 14 and 11, 13.

    The variance is (16 + 4 - 0) / 4 = 5, with 20^2 / (16^2 / 1 + 4^2 / 1) degrees of freedom.
    """
    found = estimate(np.array([[9.0, 11.0], [13.0, 15.0]]))
    assert (found.mean, found.variance) == (12, pytest.approx(5))
    assert found.freedom == pytest.approx(400 / 272)
    one = estimate(np.array([[9.0], [13.0]]))
    assert (one.variance, one.freedom) == (pytest.approx(4), 1)
    assert estimate(np.array([[9.0]])).variance is None


def test_a_group_on_all_images_has_one_draw_and_is_compared_by_means():
    few = [run("a", draw, 0, score) for draw, score in ((1, 0.4), (2, 0.5), (3, 0.6))]
    whole = [run("a", 1, seed, score, fraction=1.0) for seed, score in ((0, 0.80), (1, 0.82))]
    (found,) = find_differences(group_runs([*few, *whole], AXES), TOP1)
    # Variances of the means: 100 / 3 over draws, 2 / 2 over seeds.
    freedom = (100 / 3 + 1) ** 2 / ((100 / 3) ** 2 / 2 + 1)
    reach = t.ppf(0.975, freedom) * (100 / 3 + 1) ** 0.5
    assert found.both == (pytest.approx(31 - reach), pytest.approx(31 + reach))
    assert found.draws == 0
    (lonely,) = find_differences(group_runs([*few, whole[0]], AXES), TOP1)
    assert lonely.both is None
    assert "no interval" in lonely.statement()


@pytest.mark.parametrize("sizes", [(0.0, 1.0), (2.0, 1.0)])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(sizes: tuple[float, float]):
    """Draws suit one of two equal methods, and so do seeds; all draws have the same seeds.

    More repetitions: `COVERAGE_REPEATS=20000 python -m pytest tests/tools/experiments/test_draws.py -k covers`.
    """
    repeats = int(os.environ.get("COVERAGE_REPEATS", "400"))
    random = np.random.default_rng(0)
    cells = [(draw, seed) for draw in range(4) for seed in range(3)]
    runs = {name: [run(name, draw, seed, 0.5) for draw, seed in cells] for name in "ab"}
    covered = 0
    for _ in range(repeats):
        common = random.normal(0, 5, (1, 4, 1))
        scores = common + random.normal(0, sizes[0], (2, 4, 1)) + random.normal(0, sizes[1], (2, 1, 3))
        a, b = (scores + random.normal(0, 1, (2, 4, 3))).reshape(2, -1)
        interval = draws_interval(runs["a"], runs["b"], a, b, resampled=None, paired=True)
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    # The interval covers 94 to 98 % in the long run; 4 standard errors of a fraction of 0.95 are allowed on top.
    slack = 4 * (0.95 * 0.05 / repeats) ** 0.5
    assert 0.94 - slack < covered / repeats < 0.98 + slack


def test_images_that_suit_one_group_in_all_draws_widen_the_interval():
    runs = {name: [run(name, draw, 0, 0.5) for draw in range(3)] for name in "ab"}
    a, b = np.array([50.0, 50.0, 50.0]), np.array([52.0, 52.0, 52.0])
    # Each resample moves the difference by -1 or 1 point in all draws: variance 1, known exactly, so 1.96 and not t.
    swing = np.tile([0.01, -0.01], 50)
    resampled = (np.zeros((3, 100)), np.tile(swing, (3, 1)))
    found = draws_interval(runs["a"], runs["b"], a, b, resampled=resampled, paired=True)
    assert found == (pytest.approx(2 - 1.96, abs=1e-3), pytest.approx(2 + 1.96, abs=1e-3))


def test_cells_of_all_images_are_trained_once_and_shots_have_longer_epochs():
    matrix = matrix_of({"fraction": [0.5, 1.0], "draw": [1, 2], "seed": [0]}, "matrix")
    names = [cell.name for cell in make_cells(Plan("train_cls", (), (matrix,)))]
    assert names == ["fraction0.5-draw1-seed0", "fraction0.5-draw2-seed0", "fraction1.0-draw1-seed0"]
    lists = {"ten": "lists/10_{draw}.txt"}
    matrices = (matrix_of({"train_list": lists, "draw": [2]}, "matrix"), matrix_of({"shots": [5]}, "matrix"))
    listed, few = make_cells(Plan("train_cls", to_arguments({"epochs": 6}), matrices, equal_steps=True))
    assert listed.config["train_list"] == "lists/10_2.txt"
    assert [(cell.config["full_epochs"], cell.config["epochs"]) for cell in (listed, few)] == [(True, 6)] * 2
