"""Which chapters a report of each task has, and what it does where something is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from backbones.errors import UserError
from tools.reports.page import Note, Section, folded, percent
from tools.runs.folder import RunFolder
from tools.runs.metrics import TASK_METRICS

if TYPE_CHECKING:
    from tools.report import ReportOptions

Read = TypeVar("Read")


def facts(runs: Sequence[RunFolder]) -> list[tuple[str, str, str]]:
    """The figures at the top of the page: of one run several, of several runs the first one each."""
    names = [metric.key for metric in TASK_METRICS[runs[0].task].summary]
    if len(runs) == 1:
        results = runs[0].results
        shown = [(name, f"{percent(results[name])} %", "") for name in names if results.get(name) is not None]
        extra = [(name, f"{results[name]:,}", "") for name in ("boxes", "detections") if name in results]
        return [*shown, *extra, ("images", f"{results['images']:,}", "")]
    return [(f"{names[0]} {run.name}", f"{percent(run.results.get(names[0]))} %", "") for run in runs]


def detection(runs: Sequence[RunFolder], options: ReportOptions) -> list[Section]:
    """Chapters of detection runs."""
    from tools.reports import (
        detection as report_detection,
    )
    from tools.reports import (
        differences as differences,
    )
    from tools.reports import (
        gallery as report_gallery,
    )
    from tools.runs.detection import match

    found, lacking = _each(runs, lambda run: match(run, data=options.data, score=options.score))
    _same(runs, [each.digest for each in found], [_outline(run) for run in runs])
    chapters = [report_detection.figures_section(runs)]
    if lacking:
        return [_missing(lacking), *chapters, report_detection.classes_section(runs)]
    if len(found) > 1:
        compare = differences.detection_differences
        rows = [compare(found[0], other, resamples=options.bootstrap) for other in found[1:]]
        chapters.append(_differences(runs, rows, options))
    chapters += [
        report_detection.classes_section(runs),
        report_detection.precision_section(found),
        report_detection.errors_section(found),
        report_detection.confusion_section(found, score=options.score),
        report_detection.calibration_section(found),
        report_detection.sizes_section(found, score=options.score),
    ]
    if len(found) > 1:
        chapters.append(report_gallery.changed_section(found, number=options.images))
    names = [each.run.name if len(found) > 1 else "" for each in found]
    named = list(zip(found, names, strict=True))
    pictures = [report_gallery.images_section(each, number=options.images, name=name) for each, name in named]
    objects = [report_gallery.objects_section(each, number=options.images, name=name) for each, name in named]
    text = f"Detections of score {options.score:g} and above; an object is found at IoU .5 and the right class."
    chapters.append(Section("Images", _folded(names, pictures), text))
    chapters.append(Section("Missed and invented objects", _folded(names, objects), text))
    return chapters


def classification(runs: Sequence[RunFolder], options: ReportOptions) -> list[Section]:
    """Chapters of classification runs."""
    from tools.reports import classification as own
    from tools.reports import differences

    found, lacking = _each(runs, own.Predictions.read)
    _same(runs, [(each.classes, each.names, each.truth.tobytes()) for each in found], [_outline(run) for run in runs])
    chapters = [own.figures_section(runs)]
    if lacking:
        return [_missing(lacking), *chapters]
    if len(found) > 1:
        compare = differences.classification_differences
        rows = [compare(found[0], other, resamples=options.bootstrap) for other in found[1:]]
        chapters.append(_differences(runs, rows, options))
    old = [each.run.name for each in found if each.rank is None]
    if old and len(found) > 1:
        text = "rank and loss of each image are not in predictions.csv, so only top1 has an interval"
        last = chapters.pop()
        chapters.append(Section(last.title, [*last.blocks, Note(f"{', '.join(old)}: {text}.")], last.intro))
    changed = [own.changed_section(found, data=options.data, number=options.images)] if len(found) > 1 else []
    return [
        *chapters,
        own.classes_section(found),
        own.confusion_section(found),
        own.calibration_section(found),
        *changed,
        own.images_section(found, data=options.data, number=options.images),
    ]


def segmentation(runs: Sequence[RunFolder], options: ReportOptions) -> list[Section]:
    """Chapters of segmentation runs."""
    from tools.reports import differences
    from tools.reports import segmentation as own

    outlines = [(*_outline(run), own.confusion_of(run).sum(axis=1).tolist()) for run in runs]
    found, lacking = _each(runs, lambda run: own.Maps.read(run, data=options.data))
    _same(runs, [(each.rows, each.names) for each in found], outlines)
    chapters = [own.figures_section(runs)]
    rest = [own.classes_section(runs), own.confusion_section(runs)]
    if lacking:
        return [_missing(lacking), *chapters, *rest]
    if len(found) > 1:
        compare = differences.segmentation_differences
        rows = [compare(found[0], other, resamples=options.bootstrap) for other in found[1:]]
        chapters.append(_differences(runs, rows, options))
        rest.append(own.changed_section(found, number=options.images))
    return [*chapters, *rest, own.images_section(found, number=options.images)]


CHAPTERS: dict[str, Callable[[Sequence[RunFolder], Any], list[Section]]] = {
    "detection": detection,
    "classification": classification,
    "segmentation": segmentation,
}


def _each(runs: Sequence[RunFolder], read: Callable[[RunFolder], Read]) -> tuple[list[Read], list[str]]:
    """What can be read of the runs, and why not of the others."""
    found, lacking = [], []
    for run in runs:
        try:
            found.append(read(run))
        except UserError as error:
            lacking.append(str(error))
    return found, lacking


def _missing(lacking: Sequence[str]) -> Section:
    notes = [Note(text, warning=True) for text in dict.fromkeys(lacking)]
    return Section(
        "What is missing", notes, "Only what results.json says is shown, without the chapters that need the following."
    )


def _outline(run: RunFolder) -> tuple[Any, ...]:
    """What results.json tells of the images."""
    classes = run.results.get("per_class") or {}
    names = tuple((c["id"], c["name"], c["boxes"]) for c in classes) if isinstance(classes, list) else tuple(classes)
    return run.results["images"], names


def _same(runs: Sequence[RunFolder], digests: Sequence[Any], outlines: Sequence[Any]) -> None:
    """Refuse runs that were not measured on the same."""
    odd = next((place for place, outline in enumerate(outlines) if outline != outlines[0]), None)
    if odd is None and len(digests) == len(runs):
        odd = next((place for place, digest in enumerate(digests) if digest != digests[0]), None)
    if odd is not None:
        raise UserError(
            f"{runs[odd].folder}: was measured on other images or classes ({runs[odd].data_name}) "
            f"than {runs[0].folder} ({runs[0].data_name}); one report is of one data set"
        )


def _differences(runs: Sequence[RunFolder], rows: Any, options: ReportOptions) -> Section:
    from tools.reports.differences import differences_section

    names = [run.name for run in runs]
    return differences_section(names, rows, images=runs[0].results["images"], resamples=options.bootstrap)


def _folded(names: Sequence[str], blocks: Sequence[Sequence[Any]]) -> list[Any]:
    """The blocks of one run as they are, of several behind a line each."""
    return folded([(name, own) for name, own in zip(names, blocks, strict=True)])
