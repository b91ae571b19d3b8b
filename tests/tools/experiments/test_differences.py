"""Differences between runs: scores on resampled images, and intervals that know seeds and images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_ind

from tools.experiments.cells import Cell
from tools.experiments.differences import differences
from tools.experiments.groups import groups
from tools.experiments.runs import Run
from tools.runs.folder import RunFolder
from tools.runs.metrics import TASK_METRICS
from tools.runs.scores import average_precision, read_score

TOP1 = TASK_METRICS["classification"].primary
KEYS = {"det": "AP", "seg": "mIoU", "cls": "top1"}


@pytest.mark.parametrize("task", KEYS)
def test_each_image_once_gives_the_figure_of_the_run(task: str, tiny_runs: dict[str, Path]):
    run = RunFolder.read(tiny_runs[task])
    scored = read_score(run)
    assert scored.size == run.results["images"]
    assert scored.score(np.ones(scored.size)) == pytest.approx(run.results[KEYS[task]], abs=1e-12)


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, size = rng.uniform(0, 60, (count, 2)), rng.uniform(10, 40, (count, 2))
    return np.concatenate([corner, size], axis=1).round(1)


def coco(images: list[int], truth: dict[int, list[dict[str, Any]]], found: dict[int, list[dict[str, Any]]]) -> Any:
    """hotcoco's evaluation where image k of the list, under the id k, shows what image `images[k]` does."""
    from hotcoco import COCO, COCOeval

    annotations = [{**each, "image_id": k} for k, image in enumerate(images) for each in truth[image]]
    data = {
        "images": [{"id": k, "width": 100, "height": 100} for k in range(len(images))],
        "annotations": [{**each, "id": number} for number, each in enumerate(annotations, start=1)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    gt = COCO(data)
    detections = [{**each, "image_id": k} for k, image in enumerate(images) for each in found[image]]
    evaluation = COCOeval(gt, gt.load_res(detections), "bbox")
    evaluation.params.img_ids = list(range(len(images)))
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def test_weights_count_images_as_if_they_stood_there_so_often():
    rng = np.random.default_rng(0)
    truth: dict[int, list[dict[str, Any]]] = {}
    found: dict[int, list[dict[str, Any]]] = {}
    for image in range(8):
        places = boxes(rng, 5)
        truth[image] = [
            {
                "category_id": int(rng.integers(1, 3)),
                "bbox": box.tolist(),
                "area": float(box[2] * box[3]),
                "iscrowd": int(n == 0),
            }
            for n, box in enumerate(places)
        ]
        moved = np.concatenate([places + rng.normal(0, 2, places.shape), boxes(rng, 4)])
        found[image] = [
            {"category_id": int(rng.integers(1, 3)), "bbox": box.tolist(), "score": float(rng.random())}
            for box in moved
        ]
    score = average_precision(coco(list(range(8)), truth, found), list(range(8)))
    for weights in ([1] * 8, [0, 2, 1, 0, 3, 1, 1, 0], [4, 0, 0, 0, 1, 1, 0, 2]):
        repeated = [image for image, times in enumerate(weights) for _ in range(times)]
        precision = np.asarray(coco(repeated, truth, found).eval["precision"])[:, :, :, 0, -1]
        wanted = precision[precision > -1].mean()
        assert score(np.array(weights, float)) == pytest.approx(wanted, abs=1e-12)


def classifier(folder: Path, name: str, seed: int, right: np.ndarray, names: list[str] | None = None) -> Run:
    """A finished run whose answers are right where told."""
    path = folder / f"{name}-seed{seed}"
    path.mkdir()
    config = {"backbone": name, "seed": seed, "test_crops": "center", "batch_size": 8}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    results = {"images": len(right), "top1": float(right.mean()), "per_class": {"x": 1.0, "y": 1.0}}
    (path / "results.json").write_text(json.dumps(results))
    with open(path / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "predicted", "confidence"])
        for number, good in enumerate(right):
            writer.writerow([names[number] if names else f"{number}.png", "x", "x" if good else "y", 0.5])
    return Run(Cell(path.name, "train_cls", (), config, {}), path, results, [])


def answers(*shares: float, size: int = 400) -> list[np.ndarray]:
    """Right answers of runs; the hard images are the same for all."""
    return [np.arange(size) < share * size for share in shares]


def test_many_images_leave_the_interval_of_the_seeds(tmp_path: Path):
    shares = {"a": (0.60, 0.62, 0.61), "b": (0.70, 0.69, 0.73)}
    runs = [
        classifier(tmp_path, n, s, right) for n in shares for s, right in enumerate(answers(*shares[n], size=100_000))
    ]
    (found,) = differences(groups(runs, ["backbone", "seed"]), TOP1, resamples=100)
    welch = ttest_ind(shares["b"], shares["a"], equal_var=False).confidence_interval(0.95)
    assert found.change == pytest.approx(100 * (np.mean(shares["b"]) - np.mean(shares["a"])))
    assert found.both == (pytest.approx(100 * welch.low, abs=0.2), pytest.approx(100 * welch.high, abs=0.2))
    assert found.sure
    assert found.statement().startswith("backbone b over a: +9.7 top1, 95% interval +")
    assert found.statement().endswith(", 3 seeds")


def test_one_seed_knows_the_images_alone(tmp_path: Path):
    runs = [classifier(tmp_path, name, 0, right) for name, right in zip("ab", answers(0.6, 0.7), strict=True)]
    (found,) = differences(groups(runs, ["backbone", "seed"]), TOP1, resamples=2000)
    # 40 of 400 images differ: a binomial share of 0.1 with a deviation of 1.5 points.
    assert found.images == (pytest.approx(10 - 1.96 * 1.5, abs=0.3), pytest.approx(10 + 1.96 * 1.5, abs=0.3))
    assert found.both is None
    assert "of the images alone, since one training says nothing of another, 1 seed" in found.statement()


def test_equal_nets_are_not_distinguishable(tmp_path: Path):
    rights = answers(0.60, 0.64, 0.63, 0.61)
    runs = [classifier(tmp_path, "ab"[n // 2], n % 2, right) for n, right in enumerate(rights)]
    (found,) = differences(groups(runs, ["backbone", "seed"]), TOP1, resamples=100)
    assert not found.sure
    assert found.statement().endswith("2 seeds; not distinguishable")


def test_only_one_axis_differs_at_a_time_and_unfinished_groups_are_left_out(tmp_path: Path):
    runs = []
    for number, right in enumerate(answers(0.5, 0.6, 0.7, 0.8)):
        run = classifier(tmp_path, "ab"[number % 2], number, right)
        run.cell.labels.update(backbone="ab"[number % 2], lr=["low", "high"][number // 2])
        runs.append(run)
    runs.append(Run(Cell("c", "train_cls", (), {"seed": 0}, {"backbone": "c", "lr": "low"}), tmp_path / "c", None, []))
    found = differences(groups(runs, ["backbone", "lr"]), TOP1, resamples=20)
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
    (found,) = differences(groups(runs, ["backbone", "seed"]), TOP1, resamples=20)
    assert found.images is None
    assert found.sure
    (lonely,) = differences(groups([runs[0], runs[2]], ["backbone", "seed"]), TOP1, resamples=20)
    assert "1 seed; no interval:" in lonely.statement()
    assert "predictions.csv: no such file" in lonely.statement()


def test_other_images_have_no_interval_and_spoil_no_other(tmp_path: Path):
    first, second = answers(0.5, 0.6, size=4)
    runs = [
        classifier(tmp_path, "a", 0, first),
        classifier(tmp_path, "b", 0, second, ["0.png", "1.png", "2.png", "x.png"]),
        classifier(tmp_path, "c", 0, second),
    ]
    other, same = differences(groups(runs, ["backbone", "seed"]), TOP1, resamples=20)
    assert "no interval: measured on other images or classes" in other.statement()
    assert not other.sure
    assert same.images is not None


def test_a_run_folder_that_moved_keeps_its_score(tiny_runs: dict[str, Path], tmp_path: Path):
    moved = shutil.copytree(tiny_runs["cls"], tmp_path / "moved")
    scored = read_score(RunFolder.read(moved))
    assert scored.digest == read_score(RunFolder.read(tiny_runs["cls"])).digest
