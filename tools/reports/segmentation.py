"""The chapters of a segmentation report: figures, classes, confusions and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backbones.errors import UserError
from tools.reports.matrix import confusions
from tools.reports.page import (
    Cell,
    Column,
    Gallery,
    Note,
    Picture,
    Section,
    Swatches,
    Table,
    folded,
    percent,
    share,
    titles,
    word,
)
from tools.reports.pictures import view
from tools.runs.folder import RunFolder
from tools.runs.segmentation import Maps

SIDE = 360  # pixels of a picture


FIGURES = {
    "mIoU": "mean IoU of the classes",
    "pixel_accuracy": "share of the pixels that is right",
    "mean_accuracy": "mean recall of the classes",
    "frequency_weighted_IoU": "IoU weighted by the classes' pixels",
}


def figures_section(runs: Sequence[RunFolder]) -> Section:
    """The means; they need results.json alone."""
    columns = [Column("figure", number=False), *titles(runs, "percent"), Column("what it is", number=False)]
    rows = [[word(name), *(share(run.results.get(name)) for run in runs), word(text)] for name, text in FIGURES.items()]
    blocks: list[Any] = [Table("Figures in percent", columns, rows)]
    absent = runs[0].results.get("absent")
    if absent:
        blocks.append(
            Note(f"In neither truth nor prediction, and left out of the means: {', '.join(map(str, absent))}.")
        )
    return Section("Figures", blocks)


def classes_section(runs: Sequence[RunFolder]) -> Section:
    """IoU, recall and precision of each class, with its share of the pixels."""
    several = len(runs) > 1
    columns = [Column("class", number=False), Column("% of pixels")]
    for run in runs:
        names = ("IoU",) if several else ("IoU", "recall", "precision")
        columns += [Column(f"{name} {run.name}" if several else name) for name in names]
    matrices = [confusion_of(run) for run in runs]
    first = matrices[0]
    rows = []
    for place, name in enumerate(runs[0].results["per_class"]):
        cells = []
        for run, matrix in zip(runs, matrices, strict=True):
            right, true, taken = matrix[place, place], matrix[place].sum(), matrix[:, place].sum()
            cells.append(share(run.results["per_class"].get(name)))
            if not several:
                cells += [share(right / true if true else None), share(right / taken if taken else None)]
        part = float(first[place].sum() / max(first.sum(), 1))
        rows.append([word(name), Cell(percent(part, 2), key=part), *cells])
    return Section("Classes", [Table("Classes in percent", columns, rows)])


def confusion_section(runs: Sequence[RunFolder]) -> Section:
    """What was taken for what, in percent of the truth."""
    title = "Pixels by class, percent of the row"
    matrices = [(run.name if len(runs) > 1 else title, confusion_of(run)) for run in runs]
    blocks = confusions(matrices, list(runs[0].results["per_class"]), unit="pixels", shares=True)
    return Section("Confusion", blocks, "Row: what it is; column: what it was taken for; percent of the row's pixels.")


def confusion_of(run: RunFolder) -> np.ndarray:
    """Pixels `[K, K]`, row the truth.

    Raises:
        UserError: where results.json has none.
    """
    try:
        matrix, size = np.array(run.results["confusion"], np.int64), len(run.results["per_class"])
    except (KeyError, ValueError, TypeError):
        matrix, size = np.zeros(0, np.int64), -1
    if matrix.shape != (size, size):
        raise UserError(f"{run.folder / 'results.json'}: has no confusion matrix of its classes; measure again")
    return matrix


def images_section(found: Sequence[Maps], *, number: int) -> Section:
    """The worst and the best images: photograph, truth and prediction."""
    parts = []
    for each in found:
        blocks: list[Any] = []
        of = f" of {each.run.name}" if len(found) > 1 else ""
        known = np.flatnonzero(~np.isnan(each.scores))
        order = known[np.argsort(each.scores[known], kind="stable")]
        worst, best = order[:number], order[number:][::-1][:number]
        for title, chosen in ((f"Worst images{of}", worst), (f"Best images{of}", best)):
            if len(chosen):
                blocks.append(Gallery(title, [_picture([each], int(place)) for place in chosen]))
        parts.append((each.run.name, blocks))
    text = "By the mean IoU of the classes that an image shows. Black does not count."
    return Section("Images", [_legend(found[0]), *folded(parts)], text)


def changed_section(found: Sequence[Maps], *, number: int) -> Section:
    """The images whose mean IoU differs most between the first run and each other one."""
    first, parts = found[0], []
    for other in found[1:]:
        blocks: list[Any] = []
        change = other.scores - first.scores
        known = np.flatnonzero(~np.isnan(change))
        for title, sign in (("better", -1), ("worse", 1)):
            order = known[np.argsort(sign * change[known], kind="stable")][:number]
            chosen = [int(place) for place in order if sign * change[place] < 0]
            if chosen:
                pictures = [_picture([first, other], place) for place in chosen]
                blocks.append(Gallery(f"{other.run.name} {title} than {first.run.name}", pictures))
        parts.append((f"{other.run.name} against {first.run.name}", blocks or [Note("No image changed.")]))
    return Section("Changed images", folded(parts), "By the mean IoU of the classes that an image shows.")


def _picture(found: Sequence[Maps], place: int) -> Picture:
    from segmentation.draw import painted

    first, row = found[0], found[0].rows[place]
    title, source = first.names[place], first.source
    text = "mean IoU " + " → ".join(f"{100 * each.scores[place]:.0f}" for each in found)
    try:
        image = source.image(row)
    except UserError:
        return Picture([], title, f"{text}; the image cannot be read")
    layers = [("truth", source.labels(row, image.shape[:2]))]
    layers += [(each.run.name if len(found) > 1 else "prediction", each.labels[row]) for each in found]
    views = [view(image, name="image", alt=f"{title}: image", side=SIDE)]
    views += [
        view(painted(image, labels, source.classes), name=name, alt=f"{title}: {name}", side=SIDE)
        for name, labels in layers
    ]
    return Picture(views, title, text)


def _legend(maps: Maps) -> Swatches:
    classes = maps.source.classes
    colours = [tuple(int(value) for value in colour) for colour in classes.colours]
    shown = [(classes.names[number], colours[number]) for number in classes.coloured]
    return Swatches([*shown, ("does not count", (0, 0, 0))])  # type: ignore[list-item]
