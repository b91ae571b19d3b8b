"""Synthetic COCO ground truth and results of any size, for benchmarks and tests of the evaluators."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hotcoco import mask

from backbones.common.coco import AnnotationRecord, InstancesFile, ResultRecord

CATEGORIES, WIDTH, HEIGHT = 80, 640, 480
BOXES_PER_IMAGE = 7  # as in COCO
CORNERS = 32  # of a polygon, about as many as in COCO
HIT_FRACTION = 0.5  # of the detections are jittered copies of true boxes; the others have random positions
CROWD_FRACTION = 0.01  # of the true boxes are crowd regions


def synthetic_results(images: int, detections: int, seed: int) -> tuple[InstancesFile, list[ResultRecord]]:
    """Generate ground truth and results in COCO's formats, which the arguments determine completely.

    Jittered copies of true boxes have higher scores on average, so the metrics are far from both 0 and 1.
    """
    rng = np.random.default_rng(seed)
    boxes = _boxes(rng, images * BOXES_PER_IMAGE)
    owners = rng.integers(1, images + 1, len(boxes))
    labels = rng.integers(1, CATEGORIES + 1, len(boxes))
    crowds = rng.random(len(boxes)) < CROWD_FRACTION
    truth: InstancesFile = {
        "images": [
            {"id": key, "file_name": f"{key:012}.jpg", "width": WIDTH, "height": HEIGHT} for key in range(1, images + 1)
        ],
        "annotations": _annotations(boxes, owners, labels, crowds),
        "categories": [{"id": key, "name": f"class {key}"} for key in range(1, CATEGORIES + 1)],
    }
    return truth, _results(rng, detections, images, boxes, owners, labels)


def write_synthetic(folder: Path, images: int, detections: int, seed: int, *, masks: bool = False) -> tuple[Path, Path]:
    """Generate ground truth and results; write them as `truth.json` and `detections.json`, and return both paths.

    Args:
        masks: give each object a polygon, and each detection a compressed mask in place of its box.
    """
    paths = folder / "truth.json", folder / "detections.json"
    truth, results = synthetic_results(images, detections, seed)
    contents = (_with_polygons(truth), [_with_mask(record) for record in results]) if masks else (truth, results)
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    return paths


def _with_polygons(truth: InstancesFile) -> InstancesFile:
    annotations = [record | {"segmentation": [_outline(record["bbox"])]} for record in truth["annotations"]]
    return truth | {"annotations": annotations}  # type: ignore[return-value, typeddict-item]


def _with_mask(result: ResultRecord) -> dict[str, object]:
    """Return a result with a mask in place of its box."""
    code = mask.merge(mask.frPyObjects([_outline(result["bbox"])], HEIGHT, WIDTH))
    outline = {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}
    return {name: value for name, value in result.items() if name != "bbox"} | {"segmentation": outline}


def _outline(box: list[float]) -> list[float]:
    """Return a closed curve in a box as a polygon: an ellipse with eight dents."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radii = 0.9 + 0.1 * np.cos(8 * angles)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] / 2 + 0.5
    return (np.array(box[:2]) + points * box[2:]).round(2).ravel().tolist()


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return random boxes x, y, w, h `[count, 4]` inside the image, in all three of COCO's size ranges."""
    size = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corner = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    return np.hstack([corner, size]).round(2)


def _annotations(
    boxes: np.ndarray, owners: np.ndarray, labels: np.ndarray, crowds: np.ndarray
) -> list[AnnotationRecord]:
    columns = (owners.tolist(), labels.tolist(), boxes.tolist(), crowds.astype(int).tolist())
    return [
        {"id": key, "image_id": owner, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
        for key, (owner, label, box, crowd) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _results(
    rng: np.random.Generator, count: int, images: int, boxes: np.ndarray, owners: np.ndarray, labels: np.ndarray
) -> list[ResultRecord]:
    hits = int(count * HIT_FRACTION)
    chosen = rng.integers(0, len(boxes), hits)
    near = boxes[chosen] + rng.normal(0, 0.07, (hits, 4)) * boxes[chosen][:, [2, 3, 2, 3]]
    near[:, 2:] = near[:, 2:].clip(min=1)
    placed = np.vstack([near, _boxes(rng, count - hits)]).round(2).tolist()
    images_of = np.concatenate([owners[chosen], rng.integers(1, images + 1, count - hits)]).tolist()
    labels_of = np.concatenate([labels[chosen], rng.integers(1, CATEGORIES + 1, count - hits)]).tolist()
    scores = np.concatenate([rng.beta(4, 2, hits), rng.beta(2, 4, count - hits)]).round(4).tolist()  # some ties
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(images_of, labels_of, placed, scores, strict=True)
    ]
