"""The parts of a report on detection that concern masks; nothing for runs without masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hotcoco import mask

from tools.evaluation.summary import METRICS, PREFIXES, TITLES, IouType, iou_types_of
from tools.reports.cells import blocks_by_run, count_cell, fraction_cell, run_columns, text_cell, text_column
from tools.reports.page import Block, Gallery, GalleryItem, Section, SortableTable, TableColumn
from tools.reports.pictures import SIDE, embed_crop, read_rgb
from tools.runs.folder import RunFolder
from tools.runs.mask_pairs import MaskPair, mask_pairs
from tools.runs.outcomes import BoxPredictions

TRUE, FOUND, EDGE = (255, 215, 0), (60, 190, 255), (20, 20, 20)  # colours of outlines, and of their edges
MARGIN = 0.2  # around the box of a crop, as a fraction of the longer side of the box


def mask_tables(runs: Sequence[RunFolder]) -> list[Block]:
    """Return a table of AP by boxes, masks and boundaries; nothing if no run has metrics of masks."""
    kinds = [iou for iou in PREFIXES if any(iou in iou_types_of(run.results) for run in runs)]
    if kinds in ([], ["bbox"]):
        return []
    columns = [text_column("metric")]
    columns += [TableColumn(_kind_title(run, iou, runs)) for run in runs for iou in kinds]
    rows = [
        [text_cell(name), *(fraction_cell(run.results.get(PREFIXES[iou] + name)) for run in runs for iou in kinds)]
        for name in METRICS
    ]
    return [SortableTable("Boxes and masks in percent", columns, rows)]


def _kind_title(run: RunFolder, iou: IouType, runs: Sequence[RunFolder]) -> str:
    return f"{TITLES[iou]} {run.name}" if len(runs) > 1 else TITLES[iou]


def mask_sections(found: Sequence[BoxPredictions], *, score: float, number: int) -> list[Section]:
    """Return the chapter on the quality of masks; nothing if no run has masks.

    Args:
        score: least score of the detections.
        number: number of images in a gallery.
    """
    parts = []
    with_masks = [each for each in found if "segm_AP" in each.run.results]
    boundaries = _boundary_table(with_masks)
    for each in with_masks:
        pairs = mask_pairs(each.evaluated.masks(), each.evaluated.images, score=score)
        paths = {image.id: image.path for image in each.images}
        name = each.run.name if len(found) > 1 else ""
        parts.append((name, pair_blocks(pairs, each.categories, paths, bits=each.run.bits, number=number)))
    text = (
        f"Detections with score {score:g} or higher whose box has an IoU of 0.5 or more with an object of their class. "
        "A mask IoU far below the box IoU shows a poor mask in a good box."
    )
    return [Section("Masks", [*boundaries, *blocks_by_run(parts)], text)] if parts else []


def _boundary_table(found: Sequence[BoxPredictions]) -> list[Block]:
    """Return a table of Boundary AP; nothing if no run has masks, or one has too many to compute it in a report."""
    values = [each.evaluated.boundary_metrics() for each in found]
    known = [metrics for metrics in values if metrics is not None]
    if not known or len(known) < len(values):
        return []
    columns = [text_column("metric"), *run_columns([each.run for each in found], TITLES["boundary"], "boundaries ")]
    rows = [[text_cell(name), *(fraction_cell(metrics.get(name)) for metrics in known)] for name in METRICS]
    return [SortableTable("Boundaries of masks in percent (Boundary AP, Cheng et al. 2021)", columns, rows)]


def pair_blocks(
    pairs: Sequence[MaskPair], categories: Mapping[int, str], paths: Mapping[int, Path], *, bits: int, number: int
) -> list[Block]:
    """Return a table of box IoU and mask IoU by class, and a gallery of the worst masks.

    Args:
        paths: image files by image id.
        bits: bits that the values of 16-bit images use.
    """
    titles = ("detections", "box IoU", "mask IoU")
    rows = []
    for key, name in categories.items():
        own = [pair for pair in pairs if pair.category == key]
        means = [float(np.mean(values)) for values in zip(*((p.box_iou, p.mask_iou) for p in own), strict=True)]
        rows.append([text_cell(name), count_cell(len(own)), *map(fraction_cell, means or (None, None))])
    table = SortableTable(
        "Mean IoU by class in percent", [text_column("class"), *(TableColumn(title) for title in titles)], rows
    )
    worst = sorted(pairs, key=lambda pair: (pair.mask_iou, -pair.score))[:number]
    items = [_item(pair, categories[pair.category], paths[pair.image], bits) for pair in worst]
    note = "Yellow: outline of the true mask; blue: outline of the predicted mask."
    return [table, *([Gallery("Worst masks", items, note)] if items else [])]


def _item(pair: MaskPair, name: str, path: Path, bits: int) -> GalleryItem:
    title, text = f"{name} {pair.score:.2f}", f"mask IoU {pair.mask_iou:.2f}, box IoU {pair.box_iou:.2f}; {path.stem}"
    pixels = read_rgb(path, bits=bits)
    if pixels is None or pixels.shape[:2] != tuple(pair.true["size"]):  # type: ignore[arg-type]
        return GalleryItem([], title, f"{text}; the image cannot be read")
    pixels = np.ascontiguousarray(pixels)
    contours = {TRUE: _contours(pair.true), FOUND: _contours(pair.found)}
    width = max(1, round(max(pair.box[2:]) / SIDE * 3))  # three pixels where the crop is shown
    for lines in contours.values():  # dark edges first, so that they cover no outline
        cv2.drawContours(pixels, lines, -1, EDGE, width + 2 * max(1, width // 2))
    for colour, lines in contours.items():
        cv2.drawContours(pixels, lines, -1, colour, width)
    return GalleryItem(
        [embed_crop(pixels, pair.box, (), alt=f"{title} in {path.name}", margin=MARGIN, side=SIDE)], title, text
    )


def _contours(code: dict[str, Any]) -> Sequence[np.ndarray]:
    return cv2.findContours(np.ascontiguousarray(mask.decode(code)), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
