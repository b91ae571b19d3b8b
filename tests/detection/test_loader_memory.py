"""Memory of a loader worker: it shares any number of annotations with its parent."""

from __future__ import annotations

import gc
import json
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backbones.common.images import read_image
from detection.data import dataset
from detection.data.annotations import CocoAnnotations
from detection.transforms import Augment
from tools.benchmarks.peak import in_fresh_process
from tools.engine.bad_images import BadImages
from tools.synthetic.coco_results import BOXES_PER_IMAGE, synthetic_results

ANNOTATIONS = 120_000
IMAGES = 1_000  # so few that reading them takes little time
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


def measure(folder: Path) -> tuple[int, int]:
    """Return by how many bytes a worker grows that reads packed annotations, and one that reads Python objects."""
    truth, _ = synthetic_results(-(-ANNOTATIONS // BOXES_PER_IMAGE), 0, seed=0)
    del truth["images"][IMAGES:]
    for record in truth["annotations"]:
        record["image_id"] = record["image_id"] % IMAGES + 1
    for image in truth["images"]:
        image["file_name"] = "tiny.png"
    (folder / "truth.json").write_text(json.dumps(truth))
    cv2.imwrite(str(folder / "tiny.png"), np.zeros((2, 2, 3), np.uint8))
    annotations = CocoAnnotations.read(folder / "truth.json", folder)
    assert len(annotations.boxes) >= ANNOTATIONS
    # The annotations say the size of a real image; read the tiny one in its place.
    dataset.read_shrunk = lambda path, size, factor, bits: read_image(path, bits=bits)
    images = BadImages(folder, skip=True, seed=0).replacing(dataset.CocoDetection(annotations, Augment("eval")))
    packed = growth(lambda: [images[(0, place)] and None for place in range(len(images))])
    return packed, growth(lambda: [record["bbox"] for record in truth["annotations"]])


def test_a_worker_that_reads_all_annotations_shares_them(tmp_path: Path):
    """Measure in a fresh process, whose memory holds nothing of earlier tests."""
    found = in_fresh_process(partial(measure, tmp_path))
    assert found is not None
    packed, objects = found
    assert packed < BOUND
    assert objects > 2 * BOUND  # Python objects are copied when they are read, so the measurement can see growth
