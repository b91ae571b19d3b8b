"""What a COCO file takes once read, and what a worker that goes through it no longer shares: ours and torchvision's."""

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
from typing import Any

from tools.benchmarks.settings import OURS

PASSES = 2
Truth = Callable[[int], Any]  # an image's boxes and labels


def our_set(path: Path) -> tuple[int, Truth]:
    """Packed arrays."""
    from detection.data.annotations import CocoAnnotations

    data = CocoAnnotations.read(path, path.parent, absent_images="keep")
    return len(data), data.of_image


def their_set(path: Path) -> tuple[int, Truth]:
    """torchvision's CocoDetection, its records made boxes and labels as its reference script does."""
    import torch
    from torchvision.datasets import CocoDetection

    with contextlib.redirect_stdout(io.StringIO()):
        data = CocoDetection(str(path.parent), str(path))

    def truth(index: int) -> Any:
        records = data._load_target(data.ids[index])
        boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float32).reshape(-1, 4)
        return boxes, torch.tensor([record["category_id"] for record in records])

    return len(data), truth


SETS = {OURS: our_set, "torchvision": their_set}


def measure_set(library: str, path: Path) -> dict[str, Any]:
    """Read a file and go through it in a forked process; sizes in bytes.

    Returns:
        `read_seconds`, `read_peak_bytes`, `held_bytes` once read, `growth_bytes` of the process, `seconds_an_image` of
        its passes, `images`.
    """
    from tools.benchmarks.peak import peak, restart_peak
    from tools.synthetic.coco_results import write_synthetic

    make = SETS[library]
    with tempfile.TemporaryDirectory() as folder:
        make(write_synthetic(Path(folder), 2, 1, seed=0)[0])  # loads the code
    gc.collect()
    held, before = _private(), restart_peak()
    start = time.perf_counter()
    images, truth = make(path)
    seconds = time.perf_counter() - start
    read_peak = peak() - before
    gc.collect()
    held = _private() - held
    growth, each = _grown(images, truth)
    return {
        "images": images,
        "read_seconds": seconds,
        "read_peak_bytes": read_peak,
        "held_bytes": held,
        "growth_bytes": growth,
        "seconds_an_image": each,
    }


def _grown(images: int, truth: Truth) -> tuple[int, float]:
    """Bytes that a forked process comes to hold alone by reading every image's truth, and seconds an image."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_read_all, args=(sender, images, truth))
    process.start()
    sender.close()
    try:
        found: tuple[int, float] = receiver.recv()
        return found
    finally:
        process.kill()
        process.join()


def _read_all(connection: Connection, images: int, truth: Truth) -> None:
    truth(0)
    before, start = _private(), time.perf_counter()
    for _ in range(PASSES):
        for index in range(images):
            truth(index)
    connection.send((_private() - before, (time.perf_counter() - start) / PASSES / images))


def _private() -> int:
    """Bytes of this process that no other shares."""
    lines = Path(f"/proc/{os.getpid()}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
