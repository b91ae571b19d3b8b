"""Write an HTML page about one finished run, or about several runs that were evaluated on the same images.

    python tools/report.py runs/det-20260101-120000
    python tools/report.py runs/a runs/b --output compare.html
    python tools/report.py runs/det-20260101-120000 --model model.onnx   # metrics of the file that is deployed
    python tools/report.py runs/det-20260101-120000 --data /elsewhere/coco --score 0.3

The page needs no network and no other file. The page of one run is report.html in the run folder. The page of several
runs is report.html in the folder that contains all of them. It replaces an earlier report of the same runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions
from tools.reports.settings import ReportSettings

if TYPE_CHECKING:
    from tools.runs.file_metrics import FileMetrics
    from tools.runs.folder import RunFolder


@dataclass
class ReportFiles:
    """Run folders to report on, and the page to write.

    Args:
        runs: run folders.
        output: file of the page; absent: report.html in the run folder, or in the folder that contains all runs.
        model: exported file (ONNX or OpenVINO) to measure on the run's validation images, for one run.
        overwrite: replace the file even if it is not a report of these runs.
    """

    runs: list[str] = field(default_factory=list, metadata=POSITIONAL)
    output: str | None = None
    model: str | None = None
    overwrite: bool = False


@dataclass
class ReportOptions:
    """All options of the command."""

    files: ReportFiles
    settings: ReportSettings
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Read the runs, build the page and write it."""
    options = parse(ReportOptions, description=__doc__, argv=argv)

    from backbones.common.devices import usable_device
    from backbones.common.files import write_text
    from tools.reports.chapters import build_page, report_path
    from tools.reports.rendering import render
    from tools.runs.folder import read_runs

    options.plugins.load()
    usable_device(options.settings.device)
    runs = read_runs(options.files.runs)
    path = report_path(runs, options.files.output, overwrite=options.files.overwrite)
    page = build_page(runs, options.settings, _measured(runs, options))
    write_text(path, render(page))
    for warning in page.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    print(f"report of {len(runs)} run{'s' * (len(runs) > 1)}: {path}")


def _measured(runs: Sequence[RunFolder], options: ReportOptions) -> FileMetrics | None:
    """Return the metrics of the exported file; None without one."""
    if options.files.model is None:
        return None
    if len(runs) > 1:
        raise UserError(f"--model {options.files.model}: belongs to one run; name one run folder")
    from tools.runs.file_metrics import measure_file

    return measure_file(runs[0], Path(options.files.model), data=options.settings.data)


if __name__ == "__main__":
    run(main)
