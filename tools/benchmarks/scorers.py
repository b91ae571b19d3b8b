"""COCO's box metrics by three libraries, timed from the two files to the twelve figures."""

from __future__ import annotations

import contextlib
import gc
import io
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tools.benchmarks.settings import OURS

MODULES = {OURS: "hotcoco", "pycocotools": "pycocotools", "faster-coco-eval": "faster_coco_eval"}


def score(library: str, truth: Path, detections: Path) -> dict[str, Any]:
    """Score once: `seconds`, `peak_bytes` beyond what the process held, `figures`, the twelve of them.

    A few images are scored first, so that code is loaded.
    """
    from tools.benchmarks.peak import peak, restart_peak
    from tools.synthetic.coco_results import write_synthetic

    work = SCORERS[library]
    with tempfile.TemporaryDirectory() as folder:
        work(*write_synthetic(Path(folder), 2, 20, seed=0))
    gc.collect()
    before = restart_peak()
    start = time.perf_counter()
    figures = work(truth, detections)
    return {"seconds": time.perf_counter() - start, "peak_bytes": peak() - before, "figures": figures}


def installed(library: str) -> bool:
    return find_spec(MODULES[library]) is not None


def score_ours(truth: Path, detections: Path) -> list[float]:
    """By `tools.coco_eval`."""
    from tools.evaluation import CocoEvaluator
    from tools.evaluation.summary import METRICS

    evaluator = CocoEvaluator(truth)
    evaluator.load(detections)
    figures = evaluator.compute()
    return [-1.0 if figures[name] is None else float(figures[name]) for name in METRICS]


def score_pycocotools(truth: Path, detections: Path) -> list[float]:
    """As its documentation tells."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _reference(COCO, COCOeval, truth, detections)


def score_faster(truth: Path, detections: Path) -> list[float]:
    """As its documentation tells."""
    from faster_coco_eval import COCO, COCOeval_faster

    return _reference(COCO, COCOeval_faster, truth, detections)


def _reference(coco: Any, evaluation: Any, truth: Path, detections: Path) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        true = coco(str(truth))
        found = evaluation(true, true.loadRes(str(detections)), iouType="bbox")
        found.evaluate()
        found.accumulate()
        found.summarize()
    return [float(value) for value in found.stats[:12]]


SCORERS: dict[str, Callable[[Path, Path], list[float]]] = {
    OURS: score_ours,
    "pycocotools": score_pycocotools,
    "faster-coco-eval": score_faster,
}
