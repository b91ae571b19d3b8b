"""Memory of a loader worker: it shares any number of annotations with its parent."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT

from backbones.common.images import read_image
from detection.data import dataset
from detection.data.annotations import CocoAnnotations
from detection.transforms import Augment
from tools.engine.bad_images import BadImages
from tools.synthetic.coco_results import BOXES_PER_IMAGE, synthetic_results

ANNOTATIONS = 120_000
BOUND = 6 * 2**20  # limit of the growth of a worker's own memory since its fork, in bytes
ROLLUP = Path("/proc/self/smaps_rollup")

pytestmark = pytest.mark.skipif(not ROLLUP.exists(), reason="needs Linux's account of memory")


def unique() -> int:
    """Return the bytes of memory that this process does not share."""
    lines = ROLLUP.read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def growth(work: Callable[[], Any]) -> int:
    """Return by how many bytes the unshared memory of a forked worker grows while it works."""
    context = multiprocessing.get_context("fork")
    answer, worker_end = context.Pipe(duplex=False)

    def worker() -> None:
        before = unique()
        work()
        worker_end.send(unique() - before)

    gc.collect()
    gc.freeze()  # garbage collection in the worker would touch, and so copy, all Python objects
    process = context.Process(target=worker)
    process.start()
    worker_end.close()  # if the worker fails, `recv` then raises instead of waiting
    grown = answer.recv()
    process.join()
    gc.unfreeze()
    return grown


def measure(folder: Path, count: int) -> None:
    """Print by how many bytes a worker grows that reads `count` packed annotations, or as many Python objects."""
    truth, _ = synthetic_results(-(-count // BOXES_PER_IMAGE), 0, seed=0)
    for image in truth["images"]:
        image["file_name"] = "tiny.png"
    (folder / "truth.json").write_text(json.dumps(truth))
    cv2.imwrite(str(folder / "tiny.png"), np.zeros((2, 2, 3), np.uint8))
    annotations = CocoAnnotations.read(folder / "truth.json", folder)
    assert len(annotations.boxes) >= count
    # The annotations say the size of a real image; read the tiny one in its place.
    dataset.read_shrunk = lambda path, size, factor, bits: read_image(path, bits=bits)
    images = BadImages(folder, skip=True, seed=0).replacing(dataset.CocoDetection(annotations, Augment("eval")))
    print(growth(lambda: [images[(0, place)] and None for place in range(len(images))]))
    print(growth(lambda: [record["bbox"] for record in truth["annotations"]]))


def test_a_worker_that_reads_all_annotations_shares_them(tmp_path: Path):
    """Measure in a fresh process, whose memory holds nothing of earlier tests."""
    command = [sys.executable, __file__, str(tmp_path), str(ANNOTATIONS)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    packed, objects = map(int, done.stdout.split())
    assert packed < BOUND
    assert objects > 2 * BOUND  # Python objects are copied when they are read, so the measurement can see growth


if __name__ == "__main__":
    measure(Path(sys.argv[1]), int(sys.argv[2]))
