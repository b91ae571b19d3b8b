"""The predicted label map of an image: areas, masks of classes, drawing, and the forms of other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from backbones.common.coco import CompressedMask
from backbones.common.colours import Colour, colour_of
from backbones.common.files import JsonObject
from backbones.common.outlines import encode_bitmap
from backbones.common.packages import optional
from backbones.common.results import ImageResult
from backbones.errors import UserError, require_class
from segmentation.data.classes import Classes
from segmentation.draw import draw_labels

if TYPE_CHECKING:
    import supervision

COLUMNS = ["name", "label", "pixels", "fraction"]


@dataclass(frozen=True, repr=False)
class LabelMap(ImageResult):
    """The predicted class of each pixel of an image. The tensor is on the CPU.

        found["road"]           # a mask [H, W] bool
        found.fractions()       # {"road": 0.41, "sky": 0.22, ...} of the classes in the image
        found.plot().save("drawn.png")

    Attributes:
        labels: class numbers `[H, W]` uint8, at the size of the given image. A file's EXIF orientation is ignored,
            since label maps are drawn on the stored pixels.
        names: class names by number.
        colours: colours by class number; () for the palette.
        shown: names of the classes that drawings and tables show; () for all.
    """

    labels: Tensor
    names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    shown: tuple[str, ...] = ()

    def __getitem__(self, chosen: str | int) -> Tensor:
        """Return the mask `[H, W]` bool of a class, by its name or number.

        Raises:
            UserError: there is no such class.
        """
        if isinstance(chosen, str):
            require_class(chosen, self.names, repr(chosen))
            return self.labels == self.names.index(chosen)
        if isinstance(chosen, (int, np.integer)) and 0 <= chosen < len(self.names):
            return self.labels == int(chosen)
        raise UserError(f"{chosen!r}: the model has no such class; choose among {', '.join(self.names[:10])}")

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the shown classes in the image, the largest first."""
        return (row["name"] for row in self.rows())

    def __len__(self) -> int:
        return len(self.rows())

    def fractions(self) -> dict[str, float]:
        """Return the fraction of the image's pixels of each shown class in it, the largest first."""
        return {row["name"]: row["fraction"] for row in self.rows()}

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        """Blend the colours of the shown classes over an image `[H, W, 3]` uint8, with a legend below."""
        shown = self._shown()
        legend = [number for number in shown if number in {row["label"] for row in self.rows()}]
        return draw_labels(pixels, self.labels.numpy(), self._classes(), chosen=shown, legend=legend)

    def rows(self) -> list[JsonObject]:
        """Return name, number, pixels and fraction of each shown class in the image, the largest first."""
        counts = np.bincount(self.labels.numpy().ravel(), minlength=len(self.names))
        found = [number for number in np.argsort(-counts, kind="stable").tolist() if counts[number]]
        cells = ((self.names[n], n, int(counts[n]), float(counts[n] / self.labels.numel())) for n in found)
        return [dict(zip(COLUMNS, cell, strict=True)) for cell in cells if cell[1] in self._shown()]

    def columns(self) -> list[str]:
        """Return the keys of `rows()`."""
        return list(COLUMNS)

    def to_dict(self) -> JsonObject:
        """Return the image's path and the rows with masks as COCO's run lengths; `json.dumps` accepts the dict."""
        rows = [{**row, "segmentation": self._code(row["label"])} for row in self.rows()]
        return {"image": self.path, "results": rows}

    def to_coco(self, image_id: int = 0) -> list[JsonObject]:
        """Return COCO's results for stuff: a mask as run lengths for each shown class in the image."""
        return [
            {"image_id": image_id, "category_id": row["label"], "segmentation": self._code(row["label"])}
            for row in self.rows()
        ]

    def to_supervision(self) -> supervision.Detections:
        """Return `supervision.Detections` with a mask and its box for each shown class in the image.

        Raises:
            UserError: supervision is not installed.
        """
        package, rows = optional("supervision", extra="results"), self.rows()
        height, width = self.labels.shape
        masks = np.array([self[row["label"]].numpy() for row in rows], dtype=bool).reshape(-1, height, width)
        return package.Detections(
            xyxy=package.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            class_id=np.array([row["label"] for row in rows], dtype=int),
            data={"class_name": np.array([row["name"] for row in rows], dtype=str)},
        )

    def _classes(self) -> Classes:
        return Classes(self.names, self.colours or tuple(colour_of(number) for number in range(len(self.names))))

    def _shown(self) -> list[int]:
        return [number for number, name in enumerate(self.names) if not self.shown or name in self.shown]

    def _code(self, number: int) -> CompressedMask:
        return encode_bitmap(self[number].numpy())
