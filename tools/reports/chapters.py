"""Assembles a report: the chapters of the runs' task, then those on training and setup."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.errors import UserError, counted
from tools.reports.cells import percent
from tools.reports.deployed import deployed_section
from tools.reports.outline import TaskReport
from tools.reports.page import LegendEntry, ReportPage
from tools.reports.rendering import generator
from tools.reports.settings import ReportSettings
from tools.reports.training import setup_section, training_section
from tools.runs.file_metrics import FileMetrics
from tools.runs.folder import RunFolder, common_folder
from tools.runs.metrics import TASK_METRICS


def build_page(runs: Sequence[RunFolder], settings: ReportSettings, deployed: FileMetrics | None = None) -> ReportPage:
    """Return the report on one or several runs of the same task.

    Args:
        deployed: metrics of a file that was exported from the run.

    Raises:
        UserError: if the runs were not evaluated on the same images.
    """
    first, single = runs[0], len(runs) == 1
    images = counted(first.results["images"], "image")
    return ReportPage(
        title=f"{first.task.capitalize()}: {first.name}" if single else f"{len(runs)} {first.task} runs",
        lead=(
            f"{first.config.get('backbone')} on {first.data_name}, evaluated on {images}."
            if single
            else f"Evaluated on the same {images}."
        ),
        facts=facts(runs),
        sections=[
            *([deployed_section(first, deployed)] if deployed else []),
            *_task_report(first.task, settings).sections(runs),
            training_section(runs),
            setup_section(runs),
        ],
        subject=subject(runs),
        footer=f"Made by tools/report.py on {time.strftime('%Y-%m-%d %H:%M')}.",
        runs=[] if single else [LegendEntry(f"{run.name} ({run.folder})", index) for index, run in enumerate(runs)],
    )


def facts(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """Return names and values for the top of the page: headline metrics of a single run, or one metric of each run."""
    known = TASK_METRICS[runs[0].task].measured(run.results for run in runs)
    names = [metric.key for metric in known.summary]
    if len(runs) > 1:
        return [(f"{names[0]} {run.name}", f"{percent(run.results.get(names[0]))} %") for run in runs]
    results = runs[0].results
    metrics = [(name, f"{percent(results[name])} %") for name in names if results.get(name) is not None]
    counts = [(name, f"{results[name]:,}") for name in ("boxes", "detections") if name in results]
    return [*metrics, *counts, ("images", f"{results['images']:,}")]


def subject(runs: Sequence[RunFolder]) -> str:
    """Return a text that identifies the runs of a report: "one run", or the paths of the folders of several runs."""
    return "one run" if len(runs) == 1 else "\n".join(sorted(str(run.folder.resolve()) for run in runs))


def report_path(runs: Sequence[RunFolder], output: str | None, *, overwrite: bool) -> Path:
    """Return the path of the report: `output`, or else report.html in the run folder or in the runs' common folder.

    Args:
        overwrite: whether to replace any file; otherwise only an earlier report of the same runs is replaced.

    Raises:
        UserError: if the path holds another file, or its folder does not exist.
    """
    path = Path(output) if output else common_folder(runs) / "report.html"
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output {path}: its folder does not exist; create the folder first")
    if path.is_dir():
        raise UserError(f"--output {path}: is a folder; name a file")
    if path.exists() and not overwrite:
        head = path.read_bytes()[:2000].decode(errors="replace")
        if output or generator(subject(runs)) not in head:
            what = "exists already" if output else "exists and is not a report of these runs"
            raise UserError(f"{path}: {what}; name another file with --output or pass --overwrite")
    return path


def _task_report(task: str, settings: ReportSettings) -> TaskReport[Any]:
    # Import the chapters of this task only: those of detection load PyTorch.
    if task == "detection":
        from tools.reports.detection import DetectionReport

        return DetectionReport(settings)
    if task == "segmentation":
        from tools.reports.segmentation import SegmentationReport

        return SegmentationReport(settings)
    from tools.reports.classification import ClassificationReport

    return ClassificationReport(settings)
