"""COCO's layout: `annotations/instances_SPLIT*.json`, and the images in `SPLIT*/` or `images/SPLIT*/`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from backbones.common.datasets import find_split, instances_files
from detection.data.layouts.base import LAYOUTS, Layout, Reading, Sign
from detection.data.layouts.images import UNSPLIT
from detection.data.truth import Truth


@LAYOUTS.register("coco")
class CocoLayout(Layout):
    """COCO's own layout."""

    name = "coco"
    form = "COCO's annotations/instances_SPLIT*.json"

    def signs(self, root: Path) -> Iterator[Sign]:
        yield "annotations/instances_SPLIT.json", bool(instances_files(root))

    def splits(self, root: Path) -> list[str]:
        """Return the splits. A year after a split's name is left out, unless there are several years."""
        names = [path.stem.removeprefix("instances_") for path in instances_files(root)]
        if names == ["default"]:  # CVAT's and datumaro's name of data that is not split
            return [UNSPLIT]
        plain = [re.sub(r"[-_]?(19|20)\d\d$", "", name) or name for name in names]
        return sorted(short if plain.count(short) == 1 else name for short, name in zip(plain, names, strict=True))

    def has_split(self, root: Path, name: str) -> bool:
        return bool(instances_files(root, name))

    def read(self, root: Path, split: str, how: Reading) -> Truth:
        return Truth.of_coco(*find_split(root, split))
