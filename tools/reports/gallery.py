"""The pictures of a detection report: best and worst images, missed and invented objects, what changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backbones.errors import UserError
from tools.reports.page import Gallery, Mark, Note, Picture, Section, View, folded
from tools.reports.pictures import crop, view
from tools.runs.detection import Found, Matched, Seen, Truth

MOST_LABELLED = 14  # boxes of an image; words on more would hide it


def images_section(matched: Matched, *, number: int, name: str = "") -> list[Any]:
    """The worst and the best images, with truth and detections drawn."""
    worst = sorted(matched.images, key=lambda seen: (seen.f1, -(seen.missed + seen.invented), seen.id))
    best = sorted(matched.images, key=lambda seen: (-seen.f1, -seen.hits, seen.id))
    worst = [seen for seen in worst if seen.f1 < 1][:number]
    best = [seen for seen in best if seen.f1 > 0 and seen not in worst][:number]
    of = f" of {name}" if name else ""
    blocks: list[Any] = []
    for title, chosen in ((f"Worst images{of}", worst), (f"Best images{of}", best)):
        pictures = [_picture(seen, [("", seen)]) for seen in chosen]
        if chosen:
            note = "By F1, the balance of found, missed and invented objects."
            blocks.append(Gallery(title, pictures, note, legend=not blocks))
    return blocks


def objects_section(matched: Matched, *, number: int, name: str = "") -> list[Any]:
    """Missed objects, the largest first, and invented ones, the surest first."""
    number, of = 2 * number, f" of {name}" if name else ""
    missed = [(seen, t) for seen in matched.images for t in seen.truths if t.status == "missed"]
    invented = [(seen, f) for seen in matched.images for f in seen.found if f.status == "invented"]
    missed.sort(key=lambda pair: -pair[1].area)
    invented.sort(key=lambda pair: -pair[1].score)
    blocks: list[Any] = []
    if missed:
        title = f"Missed objects{of}: the {min(number, len(missed))} largest of {len(missed):,}"
        blocks.append(Gallery(title, [_crop(seen, truth) for seen, truth in missed[:number]], small=True, legend=True))
    if invented:
        title = f"Invented objects{of}: the {min(number, len(invented))} surest of {len(invented):,}"
        note = "Surely invented objects are often ones that the annotations lack."
        blocks.append(
            Gallery(
                title, [_crop(seen, found) for seen, found in invented[:number]], note, small=True, legend=not blocks
            )
        )
    return blocks or [Note(f"No missed and no invented objects{of}.")]


def changed_section(found: Sequence[Matched], *, number: int) -> Section:
    """The images whose F1 differs most between the first run and each other one."""
    first, parts = found[0], []
    for other in found[1:]:
        blocks: list[Any] = []
        pairs = list(zip(first.images, other.images, strict=True))
        for title, sign in (("better", 1), ("worse", -1)):
            order = sorted(pairs, key=lambda pair: (sign * (pair[0].f1 - pair[1].f1), pair[0].id))
            chosen = [(a, b) for a, b in order[:number] if sign * (b.f1 - a.f1) > 0]
            pictures = [_picture(a, [(first.run.name, a), (other.run.name, b)]) for a, b in chosen]
            if pictures:
                blocks.append(Gallery(f"{other.run.name} {title} than {first.run.name}", pictures, legend=not blocks))
        parts.append((f"{other.run.name} against {first.run.name}", blocks or [Note("No image's F1 differs.")]))
    return Section("Changed images", folded(parts), "The images whose F1 changed most.")


def _picture(image: Seen, runs: Sequence[tuple[str, Seen]]) -> Picture:
    pixels = _pixels(image)
    views = []
    for name, seen in runs:
        text = f"{seen.hits} found, {seen.missed} missed, {seen.invented} invented"
        if pixels is None:
            continue
        caption = f"{name}: {text}" if name else ""
        views.append(view(pixels, _marks(seen), name=caption, alt=f"{image.path.name}: {text}"))
    title = image.path.name
    if len(runs) > 1:
        text = "F1 " + " → ".join(f"{100 * seen.f1:.0f}" for _, seen in runs)
    else:
        text = f"F1 {100 * image.f1:.0f}: {image.hits} found, {image.missed} missed, {image.invented} invented"
    return Picture(views, title, text if pixels is not None else f"{text}; the image cannot be read")


def _pixels(image: Seen) -> np.ndarray | None:
    """The image as training sees it, turned so that the boxes fit; None where it cannot be read."""
    from detection.data.dataset import read_image

    try:
        return read_image(image.path, size=image.size)
    except UserError:
        return None


def _crop(image: Seen, chosen: Truth | Found) -> Picture:
    pixels = _pixels(image)
    if isinstance(chosen, Truth):
        marks, title, text = [Mark(chosen.box, "missed")], chosen.name, image.path.stem
    else:
        near = [Mark(t.box, "truth" if t.status == "hit" else t.status) for t in image.truths]
        marks = [*near, Mark(chosen.box, "invented")]
        title, text = f"{chosen.name} {chosen.score:.2f}", f"{chosen.why}; {image.path.stem}"
    views: list[View] = []
    if pixels is not None:
        views = [crop(pixels, chosen.box, marks, alt=f"{title} in {image.path.name}")]
    return Picture(views, title, text if views else f"{text}; the image cannot be read")


def _marks(seen: Seen) -> list[Mark]:
    """Boxes to draw; words stand only where something is wrong, or the pictures would be full of them."""
    crowded = len(seen.truths) + len(seen.found) > MOST_LABELLED
    looks = {"hit": "truth", "missed": "missed", "crowd": "crowd"}
    marks = [
        Mark(
            t.box,
            looks[t.status],
            t.name if t.status == "missed" and not crowded else "",
            f"truth: {t.name}, {t.status}",
        )
        for t in seen.truths
    ]
    for found in reversed(seen.found):
        text = f"{found.name} {found.score:.2f}"
        label = text if not crowded and found.status != "crowd" else ""
        marks.append(Mark(found.box, found.status, label, f"{text}: {found.why or found.status}"))
    return marks
