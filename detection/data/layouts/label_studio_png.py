"""Label Studio's brush as PNG or NumPy files, one for each stroke, and images; see `backbones.common.brush_files`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backbones.common.brush_files import BrushExport, BrushMask
from backbones.common.outlines import box_of_mask, run_lengths
from backbones.errors import UserError
from detection.data.layouts.base import LAYOUTS, Reading
from detection.data.layouts.collector import Collector
from detection.data.layouts.images import UNSPLIT
from detection.data.layouts.places import Place, PlacedLayout
from detection.data.truth import Truth

EMPTY = "masks without a pixel, which are left out"


@LAYOUTS.register("label-studio-png")
class LabelStudioPngLayout(PlacedLayout):
    """Label Studio's masks in files. Each stroke of the brush is an object."""

    name = "label-studio-png"
    form = "Label Studio's brush as PNG or NumPy files, task-1-annotation-1-by-1-tag-LABEL-0.png, and images"
    file = "masks task-ID-annotation-ID-by-AUTHOR-TAG-LABEL-INDEX.png"

    def places(self, root: Path) -> dict[str, Place]:
        return {} if BrushExport.of(root) is None else {UNSPLIT: (root, root)}

    def read_place(self, root: Path, split: str, places: Mapping[str, Place], how: Reading) -> Truth:
        export = BrushExport(root)
        found = Collector(self.name, root, export.finder, how, "mask")
        for name, masks in export.by_image().items():
            _add_image(found, name, masks)
        found.truth.notes.update(export.notes)
        return replace(found.finish(export.labels), passed_over=export.passed_over())


def _add_image(found: Collector, name: str, masks: Sequence[BrushMask]) -> None:
    record = found.add_image(name, masks[0].path)
    if record is None:
        return
    for ordinal, mask in enumerate(masks, 1):
        try:
            pixels = mask.read()
        except UserError as error:
            found.how.on_problem("malformed object", str(mask.path), error)
            continue
        if pixels.shape != (record["height"], record["width"]):
            text = f"{mask.path.name} has {pixels.shape[1]}x{pixels.shape[0]} pixels, but {name} has "
            found.refuse(ordinal, f"{text}{record['width']}x{record['height']}; export it again")
        elif not pixels.any():
            found.note(EMPTY)
        else:
            found.add_object(mask.label, box_of_mask(pixels), ordinal, outline=dict(run_lengths(pixels)))
