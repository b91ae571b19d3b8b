"""Images in a report on detection: best and worst images, missed objects, false positives, changes between runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbones.common.images import read_image
from backbones.errors import UserError
from tools.reports.cells import blocks_by_run
from tools.reports.page import Block, BoxMark, Gallery, GalleryItem, MarkStyle, PageImage, Paragraph, Section
from tools.reports.pictures import embed, embed_crop
from tools.runs.outcomes import BoxPredictions, DetectionOutcome, ImageOutcome, ObjectOutcome

MOST_LABELLED = 14  # boxes of an image with labels; the labels of more boxes would hide it
STYLES: dict[str, MarkStyle] = {
    "correct": "correct",
    "false positive": "false-positive",
    "missed": "missed",
    "found": "found",
    "ignored": "ignored",
}


def image_blocks(predictions: BoxPredictions, *, number: int, name: str = "") -> list[Block]:
    """Return a gallery of the worst and one of the best images, with objects and detections drawn.

    Args:
        number: number of images in a gallery.
        name: name of the run, if the report has several.
    """
    worst = sorted(predictions.images, key=lambda image: (image.f1, -(image.missed + image.false_positives), image.id))
    best = sorted(predictions.images, key=lambda image: (-image.f1, -image.found, image.id))
    worst = [image for image in worst if image.f1 < 1][:number]
    best = [image for image in best if image.f1 > 0 and image not in worst][:number]
    of_run = f" of {name}" if name else ""
    blocks: list[Block] = []
    for title, chosen in ((f"Worst images{of_run}", worst), (f"Best images{of_run}", best)):
        if chosen:
            items = [_item(image, [("", image)]) for image in chosen]
            note = "Ranked by F1, which counts found objects, missed objects and false positives."
            blocks.append(Gallery(title, items, note, legend=not blocks))
    return blocks


def error_blocks(predictions: BoxPredictions, *, number: int, name: str = "") -> list[Block]:
    """Return a gallery of missed objects, largest first, and one of false positives, most confident first.

    Args:
        number: half the number of images in a gallery, because these images are small.
        name: name of the run, if the report has several.
    """
    images, of_run = predictions.images, f" of {name}" if name else ""
    missed = [(image, each) for image in images for each in image.objects if each.status == "missed"]
    wrong = [(image, each) for image in images for each in image.detections if each.status == "false positive"]
    missed.sort(key=lambda pair: -pair[1].area)
    wrong.sort(key=lambda pair: -pair[1].score)
    blocks: list[Block] = []
    if missed:
        shown = missed[: 2 * number]
        title = f"Missed objects{of_run}: the {len(shown)} largest of {len(missed):,}"
        items = [_missed_item(image, each) for image, each in shown]
        blocks.append(Gallery(title, items, small=True, legend=True))
    if wrong:
        shown_wrong = wrong[: 2 * number]
        title = f"False positives{of_run}: the {len(shown_wrong)} most confident of {len(wrong):,}"
        items = [_false_positive_item(image, each) for image, each in shown_wrong]
        note = "Confident false positives are often objects that the annotations lack."
        blocks.append(Gallery(title, items, note, small=True, legend=not blocks))
    return blocks or [Paragraph(f"No missed objects and no false positives{of_run}.")]


def changed_section(found: Sequence[BoxPredictions], *, number: int) -> Section:
    """Return the chapter with the images whose F1 differs most between the first run and each other run."""
    first, parts = found[0], []
    for other in found[1:]:
        blocks: list[Block] = []
        pairs = list(zip(first.images, other.images, strict=True))
        for title, sign in (("better", 1), ("worse", -1)):
            order = sorted(pairs, key=lambda pair: (sign * (pair[0].f1 - pair[1].f1), pair[0].id))
            chosen = [(a, b) for a, b in order[:number] if sign * (b.f1 - a.f1) > 0]
            items = [_item(a, [(first.run.name, a), (other.run.name, b)]) for a, b in chosen]
            if items:
                blocks.append(Gallery(f"{other.run.name} {title} than {first.run.name}", items, legend=not blocks))
        name = f"{other.run.name} against {first.run.name}"
        parts.append((name, blocks or [Paragraph("The F1 of no image differs.")]))
    return Section("Changed images", blocks_by_run(parts), "The images whose F1 changed most.")


def _item(image: ImageOutcome, runs: Sequence[tuple[str, ImageOutcome]]) -> GalleryItem:
    """Return a gallery entry: the image once for each run, with the objects and the detections of the run."""
    pixels = _read_pixels(image)
    images = [] if pixels is None else [_marked(pixels, name, outcome) for name, outcome in runs]
    if len(runs) > 1:
        text = "F1 " + " → ".join(f"{100 * outcome.f1:.0f}" for _, outcome in runs)
    else:
        text = f"F1 {100 * image.f1:.0f}: {_counts(image)}"
    return GalleryItem(images, image.path.name, text if images else f"{text}; the image cannot be read")


def _marked(pixels: np.ndarray, name: str, outcome: ImageOutcome) -> PageImage:
    counts = _counts(outcome)
    caption = f"{name}: {counts}" if name else ""
    return embed(pixels, _marks(outcome), name=caption, alt=f"{outcome.path.name}: {counts}")


def _counts(image: ImageOutcome) -> str:
    wrong = image.false_positives
    return f"{image.found} found, {image.missed} missed, {wrong} false positive{'s' * (wrong != 1)}"


def _read_pixels(image: ImageOutcome) -> np.ndarray | None:
    """Read an image as training does, rotated by its EXIF orientation so that boxes fit; None if it cannot be read."""
    try:
        return read_image(image.path, size=image.size, bits=image.bits)
    except UserError:
        return None


def _missed_item(image: ImageOutcome, missed: ObjectOutcome) -> GalleryItem:
    return _crop_item(image, missed, [BoxMark(missed.box, "missed")], missed.name, image.path.stem)


def _false_positive_item(image: ImageOutcome, wrong: DetectionOutcome) -> GalleryItem:
    marks = [BoxMark(each.box, STYLES[each.status]) for each in image.objects]
    marks.append(BoxMark(wrong.box, "false-positive"))
    return _crop_item(image, wrong, marks, f"{wrong.name} {wrong.score:.2f}", f"{wrong.cause}; {image.path.stem}")


def _crop_item(
    image: ImageOutcome, shown: ObjectOutcome | DetectionOutcome, marks: Sequence[BoxMark], title: str, text: str
) -> GalleryItem:
    pixels = _read_pixels(image)
    if pixels is None:
        return GalleryItem([], title, f"{text}; the image cannot be read")
    images: list[PageImage] = [embed_crop(pixels, shown.box, marks, alt=f"{title} in {image.path.name}")]
    return GalleryItem(images, title, text)


def _marks(image: ImageOutcome) -> list[BoxMark]:
    """Return the boxes to draw on an image. If there are many, they have no labels."""
    is_crowded = len(image.objects) + len(image.detections) > MOST_LABELLED
    marks = []
    for each in image.objects:
        label = each.name if each.status == "missed" and not is_crowded else ""
        marks.append(BoxMark(each.box, STYLES[each.status], label, f"object: {each.name}, {each.status}"))
    for found in reversed(image.detections):  # the most confident one is drawn last, on top
        text = f"{found.name} {found.score:.2f}"
        label = text if found.status != "ignored" and not is_crowded else ""
        hint = f"detection: {text}, {found.cause or found.status}"
        marks.append(BoxMark(found.box, STYLES[found.status], label, hint))
    return marks
