"""Draw a sheet of augmented training images with their boxes and masks, as the detector sees them.

    python tools/show_augmentations.py --augment strong                       # the built-in shapes
    python tools/show_augmentations.py --data coco --augment lsj --masks
    python tools/show_augmentations.py --data penn-fudan --augment my_steps.yaml --masks --view-images 6 --views 4

Each row shows one image: first as it is, then in the first epochs. Ignore regions are grey.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.common.files import atomic_file, create_output
from backbones.errors import UserError, counted, require
from detection.options import DetectionDataOptions
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions


@dataclass
class SheetOptions:
    """Options of the sheet: which images it shows, and how.

    Args:
        masks: draw the masks of the objects.
        min_size: short side in pixels that the model resizes to; the side of joined and cropped images.
        max_size: largest long side in pixels.
        view_images: number of rows: images that are spread evenly over the training split.
        views: number of epochs to show.
        seed: seed of the run.
        output: PNG file.
        overwrite: replace an existing file.
    """

    masks: bool = False
    min_size: int = 800
    max_size: int = 1333
    view_images: int = 4
    views: int = 4
    seed: int = 0
    output: str = "augmentations.png"
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("min_size", "max_size", "view_images", "views"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        require(self.output.lower().endswith(".png"), "output", self.output, "must end in .png")


@dataclass
class ShowOptions:
    """Options of show_augmentations.py."""

    data: DetectionDataOptions
    sheet: SheetOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, augment some images, and write the sheet."""
    options = parse(ShowOptions, description=__doc__, argv=argv)

    # torch and other large libraries are imported only after parsing, so that --help is quick.
    from detection.transforms import Augment
    from tools.tasks.augmented import augmented_sheet

    options.plugins.load()
    sheet, data = options.sheet, options.data
    path = Path(sheet.output)
    if path.exists() and not sheet.overwrite:
        raise UserError(f"--output {path}: exists; choose another file, or pass --overwrite")
    create_output(path.parent)
    sizes, sides = (sheet.min_size, sheet.max_size), tuple(data.short_sides or ())
    augment = Augment(data.augment, sides, sheet.seed, model_sizes=sizes, masks=sheet.masks)
    picture = augmented_sheet(data, augment, rows=sheet.view_images, views=sheet.views)
    with atomic_file(path, name=f"--output {path}") as temporary:
        picture.save(temporary, format="png")
    print(
        f"{counted(sheet.view_images, 'image')} in {counted(sheet.views, 'epoch')} of --augment {data.augment}: {path}"
    )


if __name__ == "__main__":
    run(main)
