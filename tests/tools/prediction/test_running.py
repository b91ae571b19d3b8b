"""Batches are predicted at once, in threads; their results come in order, and drawings are written beside them."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segmentation
from backbones.common.images import image_size
from tools import predict
from tools.prediction import running
from tools.prediction.inputs import InputFile
from tools.prediction.outputs import PictureWriter
from tools.prediction.parallel import MOST_PIXELS, Division, divide, predict_in_order
from tools.prediction.segmentation import SegmentationPrediction
from tools.prediction.settings import PredictionSettings


@pytest.mark.parametrize(
    ("batch_size", "threads", "images", "expected"),
    [
        (8, 2, 100, Division(2, 4, 1)),
        (8, 16, 100, Division(4, 2, 4)),  # at most four at once
        (8, 2, 1, Division(1, 1, 2)),  # one image has all threads
        (8, 2, 3, Division(2, 1, 1)),  # not two images in one batch and one in the other
        (1, 4, 100, Division(1, 1, 4)),  # no more images at once than the user allows
        (8, 1, 100, Division(1, 8, 1)),
        (8, 3, 0, Division(1, 1, 3)),
        (9, 6, 100, Division(3, 3, 2)),  # four batches of one thread would leave two threads idle
        (8, 7, 100, Division(3, 2, 2)),
        (8, 10, 100, Division(2, 4, 5)),
        (8, 6, 2, Division(2, 1, 3)),
    ],
)
def test_images_and_threads_are_divided(batch_size: int, threads: int, images: int, expected: Division):
    assert divide(batch_size, threads, images=images) == expected


def test_results_come_in_order_and_a_limited_number_of_batches_runs_at_once():
    lock, counted, most = threading.Lock(), [0], [0]
    read: list[int] = []

    def source():
        for number in range(12):
            read.append(number)
            yield [number, -number]

    def predict_batch(batch: list[int]) -> list[int]:
        with lock:
            counted[0] += 1
            most[0] = max(most[0], counted[0])
        time.sleep(0.02 if batch[0] % 3 == 0 else 0)  # the first batches end last
        with lock:
            counted[0] -= 1
        return [10 * image for image in batch]

    found = predict_in_order(source(), predict_batch, at_once=3, pixels=abs)
    assert next(found) == ([0, 0], [0, 0])
    assert len(read) == 5  # not the whole folder
    assert [batch for batch, _ in found] == [[number, -number] for number in range(1, 12)]
    assert most[0] == 3
    for batch, results in predict_in_order(source(), predict_batch, at_once=1, pixels=abs):
        assert results == [10 * image for image in batch]


def test_large_images_are_not_predicted_at_once():
    lock, counted, most = threading.Lock(), [0], [0]

    def predict_batch(batch: list[int]) -> list[int]:
        with lock:
            counted[0] += sum(batch)
            most[0] = max(most[0], counted[0])
        time.sleep(0.02)
        with lock:
            counted[0] -= sum(batch)
        return batch

    third = MOST_PIXELS // 3
    batches = [[third], [third, third], [2 * third], [2 * MOST_PIXELS], [1], [third], [third], [third], [third]]
    found = predict_in_order(batches, predict_batch, at_once=4, pixels=abs)
    assert [batch for batch, _ in found] == batches
    assert most[0] == 2 * MOST_PIXELS  # the image that is too large by itself was predicted alone


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_error_of_a_batch_comes_after_the_results_before_it(at_once: int):
    def predict_batch(batch: list[int]) -> list[int]:
        if batch[0] == 2:
            raise ValueError("second")
        return batch

    found = predict_in_order([[1], [2], [3]], predict_batch, at_once=at_once, pixels=abs)
    assert next(found) == ([1], [1])
    with pytest.raises(ValueError, match="second"):
        next(found)


@pytest.mark.parametrize("task", ["det", "cls", "seg"])
def test_two_threads_write_the_same_results_as_one(task: str, tiny_runs: dict[str, Path], tmp_path: Path):
    # Detectors compute batches of images of one size; 9 images of three sizes make several batches.
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (48 + 8 * (number % 3), 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    written: list[bytes] = []
    for threads, size in ((1, 4), (2, 8)):  # both make batches of 4, so that rounding is the same
        folder = tmp_path / f"with-{threads}"
        words = [
            "--run",
            tiny_runs[task],
            "--threads",
            threads,
            "--workers",
            0,
            "--batch-size",
            size,
            "--output",
            folder,
        ]
        words += ["--score", 0.0] if task == "det" else ["--tile", 48] if task == "seg" else []
        predict.main([*map(str, words), str(tmp_path / "[0-9].png")])
        assert torch.get_num_threads() == 1  # two threads predict a batch each
        assert json.loads((folder / "summary.json").read_text())["pictures"] == 9
        results = {"det": "predictions.json", "cls": "predictions.csv", "seg": "labels/4.png"}[task]
        written.append((folder / results).read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(("tile", "min_size", "batches"), [(48, 0, 2), (0, 48, 1), (0, 0, 1)])
def test_only_tiles_are_predicted_at_once_by_a_segmenter(
    tile: int, min_size: int, batches: int, tiny_runs: dict[str, Path], tmp_path: Path
):
    # Without tiles, the scores of all classes have the size of the image, also if `min_size` reduces the image before.
    settings = PredictionSettings(threads=2)
    running.set_up_cpu(settings)
    model = segmentation.load(tiny_runs["seg"], device="cpu", tile=tile, min_size=min_size)
    task = SegmentationPrediction(model, settings, tmp_path)
    assert running.divide_cpu(task, settings, images=8).batches == batches


def test_a_drawing_that_is_too_large_for_a_jpeg_is_reduced(tmp_path: Path):
    sizes = {"wide": (4, 65_501, 3), "fits": (4, 65_500, 3)}
    with PictureWriter(tmp_path, enabled=True) as pictures:
        for name, size in sizes.items():
            draw = partial(np.zeros, size, np.uint8)
            pictures.add(name, InputFile(tmp_path / name, name), draw, is_frame=False)
    found = {name: image_size(tmp_path / f"{name}.jpg", apply_exif=False) for name in sizes}
    assert found == {"wide": (2, 32_751), "fits": (4, 65_500)}
    assert pictures.notes == [f"{tmp_path / 'wide.jpg'}: is reduced, because a JPEG has at most 65,500 pixels a side"]
