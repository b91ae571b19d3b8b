"""Measures the memory of a COCO data set and of a data-loading worker that reads it: ours and torchvision's."""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypedDict

import torch
import torchvision

from detection.data.annotations import CocoAnnotations
from tools.benchmarks.peak import peak, receive, restart_peak
from tools.benchmarks.settings import OURS, TORCHVISION
from tools.synthetic.coco_results import write_synthetic

PASSES = 2
Truth = Callable[[int], object]  # returns the boxes and labels of the image with an index


class WorkerMemory(TypedDict):
    """Measurements with one library's data set in one round.

    `read_seconds` and `read_peak_bytes`: time and peak memory of reading the file. `held_bytes`: memory of the data set
    after reading. `growth_bytes`: memory that a worker process no longer shares with its parent. `seconds_an_image`:
    time in which the worker reads the boxes of one image.
    """

    images: int
    read_seconds: float
    read_peak_bytes: int
    held_bytes: int
    growth_bytes: int
    seconds_an_image: float


def our_data_set(path: Path) -> tuple[int, Truth]:
    """Read a COCO file with our code. Return the number of images, and a function that returns an image's boxes."""
    data = CocoAnnotations.read(path, path.parent, absent_images="keep")
    return len(data), data.of_image


def their_data_set(path: Path) -> tuple[int, Truth]:
    """Read a COCO file with torchvision. Return the number of images, and a function that returns an image's boxes."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = torchvision.datasets.CocoDetection(str(path.parent), str(path))

    def truth(index: int) -> object:
        records = data._load_target(data.ids[index])
        boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float32).reshape(-1, 4)
        return boxes, torch.tensor([record["category_id"] for record in records])

    return len(data), truth


DATA_SETS = {OURS: our_data_set, TORCHVISION: their_data_set}


def measure_data_set(library: str, path: Path) -> WorkerMemory:
    """Measure reading a COCO file, and then a forked process that reads the boxes of all images."""
    read = DATA_SETS[library]
    # Read a tiny file first, so that the code is loaded.
    with tempfile.TemporaryDirectory() as folder:
        read(write_synthetic(Path(folder), 2, 1, seed=0)[0])
    gc.collect()
    held, before = _private(), restart_peak()
    start = time.perf_counter()
    images, truth = read(path)
    seconds = time.perf_counter() - start
    read_peak = peak() - before
    gc.collect()
    held = _private() - held
    growth, each = _measure_worker(images, truth)
    return {
        "images": images,
        "read_seconds": seconds,
        "read_peak_bytes": read_peak,
        "held_bytes": held,
        "growth_bytes": growth,
        "seconds_an_image": each,
    }


def _measure_worker(images: int, truth: Truth) -> tuple[int, float]:
    """Read the boxes of all images in a forked process; return the process's memory growth and seconds per image."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_read_all, args=(sender, images, truth))
    process.start()
    sender.close()
    found: tuple[int, float] = receive(receiver, process)
    return found


def _read_all(connection: Connection, images: int, truth: Truth) -> None:
    truth(0)
    before, start = _private(), time.perf_counter()
    for _ in range(PASSES):
        for index in range(images):
            truth(index)
    connection.send((_private() - before, (time.perf_counter() - start) / PASSES / images))


def _private() -> int:
    """Return the bytes of memory that only this process holds, shared with no other process."""
    lines = Path(f"/proc/{os.getpid()}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
