"""Write one page of HTML about a finished run, or about several beside each other.

    python tools/report.py runs/det-20260101-120000
    python tools/report.py runs/a runs/b --output compare.html
    python tools/report.py runs/det-20260101-120000 --data /elsewhere/coco --score 0.3

The page needs no network and no other file. Of one run it is `report.html` in the run folder, of several in the folder
that holds them all, and takes the place of an earlier report of the same runs there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError, require
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse

if TYPE_CHECKING:
    from tools.reports.page import Page
    from tools.runs.folder import RunFolder


@dataclass
class ReportOptions:
    """What to report.

    Args:
        runs: run folders.
        output: the page; absent: report.html in the run folder, or in the folder that holds all runs.
        overwrite: replace `output` where it exists.
        data: where the data lies, if not where the runs had it: a data set's folder.
        score: detections below are left out of pictures, confusion and counts of objects.
        images: pictures of each kind.
        bootstrap: resamples of the images for the intervals of differences; 0 for none.
    """

    runs: list[str] = field(default_factory=list, metadata=POSITIONAL)
    output: str | None = None
    overwrite: bool = False
    data: str | None = None
    score: float = 0.5
    images: int = 6
    bootstrap: int = 300

    def __post_init__(self) -> None:
        require(0 <= self.score <= 1, "score", self.score, "must be 0 to 1")
        require(self.images >= 0, "images", self.images, "must be 0 or above")
        require(self.bootstrap >= 0, "bootstrap", self.bootstrap, "must be 0 or above")


@dataclass
class Options:
    """The script's option groups."""

    report: ReportOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Read, analyse, write."""
    options = parse(Options, description=__doc__.splitlines()[0], argv=argv).report

    from backbones.common.files import write_text
    from tools.reports.page import render
    from tools.runs.folder import read_runs

    runs = read_runs(options.runs)
    path = output_path(options, runs)
    page = build(runs, options)
    write_text(path, render(page))
    for section in page.sections:
        for block in section.blocks:
            if getattr(block, "warning", False):
                print(f"warning: {block.text}", file=sys.stderr)
    print(f"report of {len(runs)} run{'s' * (len(runs) > 1)}: {path}")


def output_path(options: ReportOptions, runs: Sequence[RunFolder]) -> Path:
    """Where to write.

    Raises:
        UserError: where another file is in the way, or the folder does not exist.
    """
    from tools.reports.page import generator
    from tools.runs.folder import common_folder

    path = Path(options.output) if options.output else common_folder(runs) / "report.html"
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output {path}: its folder does not exist; create it first")
    if path.is_dir():
        raise UserError(f"--output {path}: is a folder; name a file")
    if path.exists() and not options.overwrite:
        head = path.read_bytes()[:2000].decode(errors="replace")
        own = options.output is None and generator(subject(runs)) in head
        if not own:
            what = "exists already" if options.output else "exists and is no report of these runs"
            raise UserError(f"{path}: {what}; name another file with --output or pass --overwrite")
    return path


def subject(runs: Sequence[RunFolder]) -> str:
    """What tells a report from one of other runs; a single run's lies in its folder, wherever that has moved."""
    return "one run" if len(runs) == 1 else "\n".join(sorted(str(each.folder.resolve()) for each in runs))


def build(runs: Sequence[RunFolder], options: ReportOptions) -> Page:
    """The page of runs of one task.

    Raises:
        UserError: where they were not measured on the same images.
    """
    import time

    from tools.reports import chapters
    from tools.reports.page import Line, Page
    from tools.reports.training import setup_section, training_section

    sections = chapters.CHAPTERS[runs[0].task](runs, options)
    single = len(runs) == 1
    title = f"{runs[0].task.capitalize()}: {runs[0].name}" if single else f"{len(runs)} {runs[0].task} runs"
    seen = runs[0].results["images"]
    made_of = f"{runs[0].config.get('backbone')} on {runs[0].data_name}"
    return Page(
        title=title,
        lead=f"{made_of}, measured on {seen:,} images." if single else f"Measured on the same {seen:,} images.",
        facts=chapters.facts(runs),
        sections=[*sections, training_section(runs), setup_section(runs)],
        subject=subject(runs),
        made=f"Made by tools/report.py on {time.strftime('%Y-%m-%d %H:%M')}.",
        runs=[] if single else [Line(f"{each.name} ({each.folder})", place) for place, each in enumerate(runs)],
    )


if __name__ == "__main__":
    run(main)
