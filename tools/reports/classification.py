"""The chapters of a classification report: figures, classes, confusions, calibration and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.reports.charts import Series, line_chart
from tools.reports.matrix import confusions
from tools.reports.page import (
    Cell,
    Column,
    Gallery,
    Note,
    Picture,
    Section,
    Side,
    Table,
    count,
    folded,
    share,
    titles,
    word,
)
from tools.reports.pictures import read_rgb, view
from tools.runs.classification import Predictions
from tools.runs.folder import RunFolder

SMALL_SIDE = 220  # pixels of a picture


FIGURES = {
    "top1": "share whose first guess is right",
    "top5": "share whose class is among the first five guesses",
    "train_top1": "the first, on training images as the net sees them in evaluation",
    "train_top5": "the second, on training images",
}


def figures_section(runs: Sequence[RunFolder]) -> Section:
    """Accuracy; it needs results.json alone."""
    columns = [Column("figure", number=False), *titles(runs, "percent"), Column("what it is", number=False)]
    rows = [
        [word(name), *(share(run.results.get(name)) for run in runs), word(meaning)]
        for name, meaning in FIGURES.items()
        if any(run.results.get(name) is not None for run in runs)
    ]
    losses = [run.results.get("nll") for run in runs]
    if any(loss is not None for loss in losses):
        cells = [Cell("n/a" if loss is None else f"{loss:.4f}", key=loss) for loss in losses]
        rows.append([word("nll"), *cells, word("mean negative log-likelihood, no percentage; 0 is perfect")])
    return Section("Figures", [Table("Figures in percent", columns, rows)])


def classes_section(found: Sequence[Predictions]) -> Section:
    """Recall and precision of each class with its count."""
    several = len(found) > 1
    columns = [Column("class", number=False), Column("images")]
    for each in found:
        columns += [Column(f"{name} {each.run.name}" if several else name) for name in ("recall", "precision")]
    rows = []
    for label, name in enumerate(found[0].classes):
        cells = []
        for each in found:
            own, taken = each.truth == label, each.guess == label
            cells += [share(_part(each.right, own)), share(_part(each.right, taken))]
        rows.append([word(name), count(int((found[0].truth == label).sum())), *cells])
    note = "Recall: share of the class that is recognised. Precision: share right of what is taken for the class."
    return Section("Classes", [Table("Classes in percent", columns, rows, note)])


def confusion_section(found: Sequence[Predictions]) -> Section:
    """What was taken for what."""
    matrices = []
    for each in found:
        size = len(each.classes)
        read = each.guess >= 0
        matrix = np.bincount(each.truth[read] * size + each.guess[read], minlength=size * size).reshape(size, size)
        matrices.append((each.run.name if len(found) > 1 else "Images by class", matrix))
    blocks = confusions(matrices, found[0].classes, unit="images")
    return Section("Confusion", blocks, "Row: what it is; column: what it was taken for.")


def calibration_section(found: Sequence[Predictions]) -> Section:
    """Whether the probabilities are to be believed."""
    from hotcoco.metrics import calibration_curve, calibration_error

    series, rows = [], []
    for place, each in enumerate(found):
        read = each.guess >= 0
        sure, right = each.sure[read], each.right[read]
        if not len(sure):
            continue
        bins = [entry for entry in calibration_curve(sure, right, 10) if entry["count"]]
        x, y = [entry["avg_confidence"] for entry in bins], [entry["avg_accuracy"] for entry in bins]
        series.append(Series(each.run.name, x, y, place, dots=True))
        mean, worst = calibration_error(sure, right, 10)
        rows.append(
            [word(each.run.name), share(mean), share(worst), share(float(sure.mean())), share(float(right.mean()))]
        )
    names = ("expected error", "largest error", "mean confidence", "accuracy")
    table = Table("Calibration in percent", [Column("run", number=False), *map(Column, names)], rows)
    chart = line_chart("Share that is right by confidence", series, x="confidence", y="share right", square=True)
    text = (
        "Of the images recognised with probability .8, four in five should be right. Below the diagonal the net is too "
        "sure of itself."
    )
    return Section("Calibration", [Side([chart, table])], text)


def images_section(found: Sequence[Predictions], *, data: str | None, number: int) -> Section:
    """The surest mistakes, the least sure right ones, the surest right ones."""
    parts = []
    number *= 2
    for each in found:
        blocks: list[Any] = []
        parts.append((each.run.name, blocks))
        root, of = image_root(each.run, data), f" of {each.run.name}" if len(found) > 1 else ""
        if root is None:
            blocks.append(Note(f"No pictures{of}: the images are not at {each.run.data_name}; name them with --data."))
            continue
        places, read = np.arange(len(each.names)), each.guess >= 0
        wrong, right = places[~each.right & read], places[each.right]
        groups = [
            ("Surest mistakes", wrong[np.argsort(-each.sure[wrong], kind="stable")]),
            ("Least sure of the right ones", right[np.argsort(each.sure[right], kind="stable")]),
            ("Surest of the right ones", right[np.argsort(-each.sure[right], kind="stable")]),
        ]
        for title, order in groups:
            if len(order):
                pictures = [_picture(root, each, int(place)) for place in order[:number]]
                blocks.append(Gallery(title + of, pictures, f"Of {len(order):,} images.", small=True))
    return Section("Images", folded(parts))


def changed_section(found: Sequence[Predictions], *, data: str | None, number: int) -> Section:
    """Images that one run recognises and the other does not."""
    first, parts = found[0], []
    root = image_root(first.run, data)
    for other in found[1:]:
        blocks: list[Any] = []
        for title, chosen in (("mended", ~first.right & other.right), ("broken", first.right & ~other.right)):
            places = np.flatnonzero(chosen)
            order = places[np.argsort(-(first.sure + other.sure)[places], kind="stable")][: 2 * number]
            pictures = [_change(root, first, other, int(place)) for place in order]
            name = f"{len(places):,} images that {other.run.name} has {title}"
            if pictures:
                blocks.append(Gallery(name, pictures, "Those first that both runs were surest of.", small=True))
        parts.append((f"{other.run.name} against {first.run.name}", blocks or [Note("No image changed.")]))
    text = f"Against {first.run.name}: mended was wrong and is right, broken was right and is wrong."
    return Section("Changed images", folded(parts), text)


def image_root(run: RunFolder, data: str | None) -> Path | None:
    """Where the images lie whose names predictions.csv has; None where they are not files here."""
    root = run.data_root(data)
    if root is None:
        from tools.synthetic import crops

        root = crops.prepare()
    folder = root / "val" if (root / "val").exists() else root / "test"
    return folder if folder.is_dir() else None


def _picture(root: Path, found: Predictions, place: int) -> Picture:
    truth, guess = found.classes[found.truth[place]], found.classes[found.guess[place]]
    sure = f"{100 * found.sure[place]:.0f} %"
    title = f"{truth} {sure}" if truth == guess else f"{truth}, taken for {guess} {sure}"
    return _shown(root, found.names[place], title, Path(found.names[place]).name)


def _change(root: Path | None, first: Predictions, other: Predictions, place: int) -> Picture:
    def guess(found: Predictions) -> str:
        name = found.classes[found.guess[place]] if found.guess[place] >= 0 else "not read"
        return f"{name} {100 * found.sure[place]:.0f} %"

    text = f"{guess(first)} → {guess(other)}; {Path(first.names[place]).name}"
    return _shown(root, first.names[place], first.classes[first.truth[place]], text)


def _shown(root: Path | None, name: str, title: str, text: str) -> Picture:
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts  # a name is the file's word, not ours
    pixels = read_rgb(root / name) if root is not None and inside else None
    if pixels is None:
        return Picture([], title, f"{text}; no picture")
    return Picture([view(pixels, alt=title, side=SMALL_SIDE)], title, text)


def _part(right: np.ndarray, chosen: np.ndarray) -> float | None:
    return float(right[chosen].mean()) if chosen.any() else None
