"""The metric of a run on weighted images: by the run's own results, and by images that are repeated."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.runs.folder import RunFolder
from tools.runs.metrics import TASK_METRICS
from tools.runs.scores import average_precision, read_score


@pytest.mark.parametrize("task", ["det", "seg", "cls"])
def test_weights_of_one_give_the_metric_of_the_run(task: str, tiny_runs: dict[str, Path]):
    run = RunFolder.read(tiny_runs[task])
    scored = read_score(run)
    assert scored.size == run.results["images"]
    assert scored.score(np.ones(scored.size)) == pytest.approx(
        run.results[TASK_METRICS[run.task].primary.key], abs=1e-12
    )


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, size = rng.uniform(0, 60, (count, 2)), rng.uniform(10, 40, (count, 2))
    return np.concatenate([corner, size], axis=1).round(1)


def coco(images: list[int], truth: dict[int, list[dict[str, Any]]], found: dict[int, list[dict[str, Any]]]) -> Any:
    """Return hotcoco's evaluation of images with ids 0, 1, ...: image k is a copy of image `images[k]`."""
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


def test_a_weight_counts_an_image_as_often_as_copies_of_it():
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


def test_a_run_folder_that_moved_keeps_its_score(tiny_runs: dict[str, Path], tmp_path: Path):
    moved = shutil.copytree(tiny_runs["cls"], tmp_path / "moved")
    scored = read_score(RunFolder.read(moved))
    assert scored.digest == read_score(RunFolder.read(tiny_runs["cls"])).digest
