"""Differences between runs: scores on resampled images, and intervals that know seeds and images."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import t, ttest_ind
from tolerances import quantile_chance

from tools.evaluation.resampling import resamples
from tools.experiments.cell_runs import CellRun
from tools.experiments.cells import Cell
from tools.experiments.differences import (
    Difference,
    find_differences,
    seeds_and_images_interval,
)
from tools.experiments.draws import shared_image_variance
from tools.experiments.folds import describe_folds
from tools.experiments.groups import group_runs
from tools.runs.metrics import TASK_METRICS

TOP1 = TASK_METRICS["classification"].primary


def classifier(folder: Path, name: str, seed: int, right: np.ndarray, names: list[str] | None = None) -> CellRun:
    """A finished run whose answers are right where told."""
    path = folder / f"{name}-seed{seed}"
    path.mkdir()
    config = {"backbone": name, "seed": seed, "test_crops": "center", "batch_size": 8}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    results = {"images": len(right), "top1": float(right.mean()), "per_class": {"x": {}, "y": {}}}
    (path / "results.json").write_text(json.dumps(results))
    with open(path / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "predicted", "confidence"])
        for number, good in enumerate(right):
            writer.writerow([names[number] if names else f"{number}.png", "x", "x" if good else "y", 0.5])
    return CellRun(Cell(path.name, "train_cls", (), config, {}), path, results, [])


def answers(*shares: float, size: int = 400) -> list[np.ndarray]:
    """Right answers of runs; the hard images are the same for all."""
    return [np.arange(size) < share * size for share in shares]


def test_many_images_leave_the_interval_of_the_seeds(tmp_path: Path):
    shares = {"a": (0.60, 0.62, 0.61), "b": (0.70, 0.69, 0.73)}
    runs = [
        classifier(tmp_path, n, s, right) for n in shares for s, right in enumerate(answers(*shares[n], size=100_000))
    ]
    (found,) = find_differences(group_runs(runs, ["backbone", "seed"]), TOP1, resamples=100)
    welch = ttest_ind(shares["b"], shares["a"], equal_var=False).confidence_interval(0.95)
    assert found.change == pytest.approx(100 * (np.mean(shares["b"]) - np.mean(shares["a"])))
    assert found.both == (pytest.approx(100 * welch.low, abs=0.2), pytest.approx(100 * welch.high, abs=0.2))
    assert found.sure
    assert found.statement().startswith("backbone b over a: +9.7 top1, 95% interval +")
    assert found.statement().endswith(", 3 seeds")


def test_one_seed_knows_the_images_alone(tmp_path: Path):
    runs = [classifier(tmp_path, name, 0, right) for name, right in zip("ab", answers(0.6, 0.7), strict=True)]
    (found,) = find_differences(group_runs(runs, ["backbone", "seed"]), TOP1, resamples=2000)
    # 40 of 400 images differ: a binomial share of 0.1 with a deviation of 1.5 points.
    within = quantile_chance(1.5, 2000)
    assert found.images == (pytest.approx(10 - 1.96 * 1.5, abs=within), pytest.approx(10 + 1.96 * 1.5, abs=within))
    assert found.both is None
    assert "over images only, because one seed does not show how much seeds vary, 1 seed" in found.statement()


def test_equal_nets_are_not_distinguishable(tmp_path: Path):
    rights = answers(0.60, 0.64, 0.63, 0.61)
    runs = [classifier(tmp_path, "ab"[n // 2], n % 2, right) for n, right in enumerate(rights)]
    (found,) = find_differences(group_runs(runs, ["backbone", "seed"]), TOP1, resamples=100)
    assert not found.sure
    assert found.statement().endswith("2 seeds; not distinguishable")


def test_only_one_axis_differs_at_a_time_and_unfinished_groups_are_left_out(tmp_path: Path):
    runs = []
    for number, right in enumerate(answers(0.5, 0.6, 0.7, 0.8)):
        run = classifier(tmp_path, "ab"[number % 2], number, right)
        run.cell.labels.update(backbone="ab"[number % 2], lr=["low", "high"][number // 2])
        runs.append(run)
    runs.append(
        CellRun(Cell("c", "train_cls", (), {"seed": 0}, {"backbone": "c", "lr": "low"}), tmp_path / "c", None, [])
    )
    found = find_differences(group_runs(runs, ["backbone", "lr"]), TOP1, resamples=20)
    told = [(d.axis, d.first, d.other, d.rest, round(d.change)) for d in found]
    assert told == [
        ("backbone", "a", "b", {"lr": "low"}, 10),
        ("backbone", "a", "b", {"lr": "high"}, 10),
        ("lr", "low", "high", {"backbone": "a"}, 20),
        ("lr", "low", "high", {"backbone": "b"}, 20),
    ]


def test_runs_without_predictions_have_the_interval_of_the_seeds_alone(tmp_path: Path):
    runs = [classifier(tmp_path, "ab"[n // 2], n % 2, right) for n, right in enumerate(answers(0.5, 0.51, 0.7, 0.71))]
    (runs[0].folder / "predictions.csv").unlink()
    (found,) = find_differences(group_runs(runs, ["backbone", "seed"]), TOP1, resamples=20)
    assert found.images is None
    assert found.sure
    (lonely,) = find_differences(group_runs([runs[0], runs[2]], ["backbone", "seed"]), TOP1, resamples=20)
    assert "1 seed; no interval:" in lonely.statement()
    assert "predictions.csv: no such file" in lonely.statement()


def test_other_images_have_no_interval_and_spoil_no_other(tmp_path: Path):
    first, second = answers(0.5, 0.6, size=4)
    runs = [
        classifier(tmp_path, "a", 0, first),
        classifier(tmp_path, "b", 0, second, ["0.png", "1.png", "2.png", "x.png"]),
        classifier(tmp_path, "c", 0, second),
    ]
    other, same = find_differences(group_runs(runs, ["backbone", "seed"]), TOP1, resamples=20)
    assert "no interval: the runs were evaluated on different images or classes" in other.statement()
    assert not other.sure
    assert same.images is not None


@pytest.mark.parametrize("of_seeds", [0.02, 0.3])
@pytest.mark.parametrize("of_images", [0.1, 1.0])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(of_seeds: float, of_images: float):
    """Two equal methods; images differ in difficulty, and in which method they suit.

    More repetitions: `COVERAGE_REPEATS=20000 python -m pytest tests/tools/experiments/test_differences.py -k covers`.
    """
    repeats, images, seeds = int(os.environ.get("COVERAGE_REPEATS", "600")), 150, 3
    random = np.random.default_rng(0)
    weights = np.array(list(resamples(images, 150))).T / images
    covered = 0
    for _ in range(repeats):
        suits = random.normal(0, of_images, (2, 1, images)) + random.normal(0, 1, images)
        right = random.normal(0, of_seeds, (2, seeds, 1)) + suits + random.normal(0, 1, (2, seeds, images)) > 0
        low, high = seeds_and_images_interval(*(100 * right.mean(2)).tolist(), tuple(right @ weights))
        covered += low <= 0 <= high
    # The interval covers 94 to 97 % in the long run; 4 standard errors of a fraction of 0.95 are allowed on top.
    slack = 4 * (0.95 * 0.05 / repeats) ** 0.5
    assert 0.94 - slack < covered / repeats < 0.97 + slack


def test_the_interval_over_seeds_and_images_by_hand():
    """Variances of the means: 1 / 3 and 13 / 3 / 3 over the seeds, and 1 over the images: 25 / 9 in all.

    Degrees of freedom: (25 / 9)^2 / ((1 / 3)^2 / 2 + (13 / 9)^2 / 2) = 625 / 89.
    """
    a, b = (60.0, 62.0, 61.0), (70.0, 69.0, 73.0)
    low, high = seeds_and_images_interval(a, b, (np.full((3, 3), 0.5), np.array([[0.59, 0.61, np.nan]] * 3)))
    reach = t.ppf(0.975, 625 / 89) * 5 / 3
    assert (low, high) == (pytest.approx(29 / 3 - reach), pytest.approx(29 / 3 + reach))
    welch = ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert seeds_and_images_interval(a, b, None) == (pytest.approx(welch.low), pytest.approx(welch.high))
    assert seeds_and_images_interval((1.0, 1.0), (3.0, 3.0), None) == (2, 2)
    assert seeds_and_images_interval((1.0,), b, None) is seeds_and_images_interval(a, (1.0,), None) is None


@pytest.mark.parametrize(
    ("b", "expected"),
    [
        ([[0, 3], [0, 1]], 0.75),  # means 0 and 2: variance 1; deviations of 0 and 1: 2 * 0.25 / 1 / 2 of it
        ([[0, 4], [0, 1], [0, 1]], 0.75),  # the same means; deviations 2, -1, -1: (1 + 0.25 + 0.25) / 2 / 3
        ([[2, 0], [0, 2]], 0.0),  # equal means, so nothing is shared
    ],
)
def test_variance_that_all_seeds_share_by_hand(b: list[list[float]], expected: float):
    nothing = np.zeros((2, 2))
    assert shared_image_variance(nothing, np.array(b, float)) == pytest.approx(expected)
    assert shared_image_variance(np.array(b, float), nothing) == pytest.approx(expected)


def difference(low: float, high: float, *, seeds: tuple[int, int] = (1, 1), **changes: object) -> Difference:
    scores = tuple((60.0 + 10 * number,) * count for number, count in enumerate(seeds))
    given = {"rest": {}, "images": (low, high), "both": None, **changes}
    return Difference("backbone", "a", "b", given.pop("rest"), "top1", scores, **given)


@pytest.mark.parametrize(
    ("bounds", "sure"), [((1, 2), True), ((-2, -1), True), ((-1, 1), False), ((0, 2), False), ((-2, 0), False)]
)
def test_a_difference_is_sure_if_its_interval_excludes_zero(bounds: tuple[float, float], sure: bool):
    assert difference(*bounds).sure is sure
    assert difference(-5, 5, both=bounds).sure is sure  # the interval over seeds and images decides


def test_statements_in_full():
    alone = "over images only, because one seed does not show how much seeds vary"
    assert difference(8, 12).statement() == f"backbone b over a: +10.0 top1, 95% interval +8.0 to +12.0 {alone}, 1 seed"
    several = difference(8, 12, seeds=(2, 3), rest={"lr": "low", "head": "c4"}, both=(-1.0, 21.0))
    assert several.statement() == (
        "backbone b over a (lr low, head c4): +10.0 top1, 95% interval -1.0 to +21.0, 2 and 3 seeds; "
        "not distinguishable"
    )
    assert several.as_json() == {
        "axis": "backbone",
        "first": "a",
        "other": "b",
        "rest": {"lr": "low", "head": "c4"},
        "metric": "top1",
        "scores": ((60.0, 60.0), (70.0, 70.0, 70.0)),
        "change": 10.0,
        "images": (8, 12),
        "images_and_seeds": (-1.0, 21.0),
        "folds": 0,
        "draws": 0,
        "distinguishable": False,
        "statement": several.statement(),
    }


def folded(name: str, fold: int, seed: int, top1: float) -> CellRun:
    """Return a finished run of one fold of five, whose folder is not read."""
    config = {"backbone": name, "seed": seed, "folds": 5, "fold": fold}
    cell = Cell(f"{name}-fold{fold}-seed{seed}", "train_cls", (), config, {})
    return CellRun(cell, Path(cell.name), {"top1": top1}, [])


def test_runs_of_folds_are_paired_by_fold():
    # Folds differ by 30 points, the backbones by 1, 2, 3 and 2 points in each of them; fold 4 of b is not finished.
    gains, runs = (1, 2, 3, 2), [folded("a", 4, 0, 0.5)]
    for fold, gain in enumerate(gains):
        runs += [folded("a", fold, 0, 0.4 + fold / 10), folded("b", fold, 0, 0.4 + fold / 10 + gain / 100)]
    (found,) = find_differences(group_runs(runs, ["backbone", "fold", "seed"]), TOP1)
    assert (found.change, found.folds) == (pytest.approx(2), 4)
    # Variance (1 + 0 + 1 + 0) / 3, times 1/4 + 1/(5 - 1); t with 3 degrees of freedom.
    reach = t.ppf(0.975, 3) * np.sqrt(2 / 3 * (1 / 4 + 1 / 4))
    assert found.both == (pytest.approx(2 - reach), pytest.approx(2 + reach))
    assert found.statement() == (
        f"backbone b over a: +2.0 top1, 95% interval {2 - reach:+.1f} to {2 + reach:+.1f}, 4 paired folds"
    )


def test_the_seeds_of_a_fold_are_averaged_and_one_fold_in_common_has_no_interval():
    runs = [folded("a", 0, 0, 0.4), folded("a", 0, 1, 0.6), folded("a", 1, 0, 0.9), folded("b", 0, 0, 0.6)]
    (found,) = find_differences(group_runs([*runs, folded("b", 2, 0, 0.1)], ["backbone", "fold", "seed"]), TOP1)
    assert (found.change, found.bounds) == (pytest.approx(10), None)
    assert found.statement() == (
        "backbone b over a: +10.0 top1, 1 paired fold; no interval: one fold does not show how much folds vary"
    )


def test_the_mean_over_folds_has_the_corrected_interval():
    runs = [folded("a", fold, seed, 0.5 + fold / 50 + seed / 100) for fold in range(3) for seed in (-1, 1)]
    group, alone = group_runs([*runs, folded("b", 0, 0, 0.6), folded("b", 0, 1, 0.8)], ["backbone", "fold", "seed"])
    # Folds of 50, 52 and 54: variance 4, times 1/3 + 1/(5 - 1); t with 2 degrees of freedom.
    reach = t.ppf(0.975, 2) * np.sqrt(4 * (1 / 3 + 1 / 4))
    assert describe_folds(group, TOP1) == (
        f"top1 (backbone a): 52.0, 95% interval {52 - reach:.1f} to {52 + reach:.1f} of the mean, 3 of 5 folds"
    )
    assert describe_folds(alone, TOP1) is None
    (whole,) = group_runs([folded("a", fold, 0, 0.5 + fold / 50) for fold in range(5)], ["backbone", "fold", "seed"])
    assert describe_folds(whole, TOP1).endswith(" of the mean, 5 folds")  # type: ignore[union-attr]
