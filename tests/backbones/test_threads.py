"""Trained models predict in several threads at once, as a server calls them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import classification
import detection
import segmentation

LOADERS = {"det": detection.load, "seg": segmentation.load, "cls": classification.load}
IMAGES = [
    np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    for seed, size in enumerate([(64, 64, 3), (64, 48, 3), (40, 72, 3), (64, 64, 3)])
]


def numbers(found: Any) -> list[np.ndarray]:
    """The numbers of a result: of a detection boxes and scores, of a label map its classes, of a ranking all scores."""
    kept = [getattr(found, name) for name in ("boxes", "scores", "labels", "probabilities") if hasattr(found, name)]
    assert kept
    return [np.asarray(each) for each in kept]


@pytest.mark.parametrize("task", LOADERS)
def test_threads_share_a_model_and_get_the_same_bits(task: str, tiny_runs: dict[str, Path]):
    model = LOADERS[task](tiny_runs[task], device="cpu", **({"score": 0.0} if task == "det" else {}))
    expected = [numbers(model(image)) for image in IMAGES]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: numbers(model(IMAGES[number % 4])), range(32)))
    for number, each in enumerate(found):
        for first, second in zip(expected[number % 4], each, strict=True):
            np.testing.assert_array_equal(first, second)
