"""The detections in an image: filters, drawing, crops, and the forms of other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from backbones.common.coco import CompressedMask, CompressedRuns
from backbones.common.files import JsonObject
from backbones.common.images import Image
from backbones.common.packages import optional
from backbones.common.results import ImageResult, Selection, indices_of
from backbones.errors import require_class
from detection.draw import draw_detections
from detection.masks import decode
from detection.runs import strips_of_codes

if TYPE_CHECKING:
    import supervision

COLUMNS = ["name", "label", "score", "left", "top", "right", "bottom"]


@dataclass(frozen=True)
class Outlines:
    """Masks of the detections in one image.

    Attributes:
        codes: masks as COCO's compressed run-length codes, one per detection.
        size: height and width of the image in pixels.
    """

    codes: tuple[CompressedRuns, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Detection:
    """One detected object.

    Attributes:
        box: left, top, right, bottom in pixels of the image as given.
        score: 0..1.
        label: category id as in the data set's file.
        name: name of the category.
        code: mask as COCO's compressed run-length code; None without masks.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str
    code: CompressedRuns | None = None

    @property
    def mask(self) -> Tensor | None:
        """The mask as a bitmap of the image `[H, W]` bool, or None if the detector predicts no masks."""
        if self.code is None:
            return None
        height, width = self.code["size"]
        return decode((self.code,), (height, width))[0]


@dataclass(frozen=True, repr=False)
class Detections(ImageResult):
    """The detections in one image, sorted by score, the best first. Tensors are on the CPU.

        sure = found[found.scores > 0.5]        # also found[:3], found[[0, 2]], found[found.named("dog")]
        for each in sure:                       # each is a Detection
            each.name, each.score, each.box
        sure.plot().save("drawn.png")

    Attributes:
        boxes: `[N, 4]` xyxy in pixels of the image as given (of a file: after its EXIF orientation).
        scores: `[N]` in 0..1.
        labels: `[N]` category ids as in the data set's file.
        names: category names, one per box.
        outlines: masks of the boxes as run-length codes; None if the detector predicts no masks.
        categories: names of all categories of the detector; empty if they are unknown.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...]
    outlines: Outlines | None = None
    categories: tuple[str, ...] = ()

    @property
    def masks(self) -> Tensor | None:
        """The masks as bitmaps of the image `[N, H, W]` bool, or None if the detector predicts no masks."""
        return None if self.outlines is None else decode(self.outlines.codes, self.outlines.size)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, chosen: int) -> Detection: ...

    @overload
    def __getitem__(self, chosen: Selection) -> Detections: ...

    def __getitem__(self, chosen: int | Selection) -> Detection | Detections:
        """Return one detection for an index; for a slice, a boolean mask `[N]` or indices, the selected detections.

        Raises:
            IndexError: an index is out of range, or a mask has another length.
        """
        if not isinstance(chosen, (int, np.integer)):
            return self.where(indices_of(chosen, len(self)))
        index = int(indices_of([int(chosen)], len(self))[0])
        left, top, right, bottom = self.boxes[index].tolist()
        code = self.outlines.codes[index] if self.outlines else None
        score, label = float(self.scores[index]), int(self.labels[index])
        return Detection((left, top, right, bottom), score, label, self.names[index], code)

    def where(self, keep: Tensor) -> Detections:
        """Return the detections selected by a boolean mask `[N]` or by indices `[M]`."""
        indices = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
        chosen = indices.tolist()
        outlines = self.outlines and replace(self.outlines, codes=tuple(self.outlines.codes[index] for index in chosen))
        return replace(
            self,
            boxes=self.boxes[indices],
            scores=self.scores[indices],
            labels=self.labels[indices],
            names=tuple(self.names[index] for index in chosen),
            outlines=outlines,
        )

    def named(self, *names: str) -> Tensor:
        """Return a mask `[N]` of the detections with one of the category names.

        Raises:
            UserError: the detector has no category of a name.
        """
        for name in names if self.categories else ():
            require_class(name, self.categories, f"named({name!r})")
        return torch.tensor([name in names for name in self.names], dtype=torch.bool)

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        """Draw boxes, names, scores and masks on an image `[H, W, 3]` uint8. Colours go by category ids."""
        strips = strips_of_codes(self.outlines.codes) if self.outlines else None
        return draw_detections(
            pixels, self.boxes.numpy(), self.labels.tolist(), self.names, self.scores.tolist(), strips
        )

    def crops(self, image: Image | None = None) -> list[PIL.Image.Image]:
        """Return the part of the image in each box, at least one pixel wide and high. The errors are those of `plot`.

        Args:
            image: cut from this image; by default the image that the model was given.
        """
        pixels = self.pixels(image)
        height, width = pixels.shape[:2]
        corners = self.boxes.numpy().astype(np.float64)
        low = np.floor(corners[:, :2]).clip(0, (width - 1, height - 1)).astype(int)
        high = np.maximum(np.ceil(corners[:, 2:]).clip(0, (width, height)).astype(int), low + 1)
        return [
            PIL.Image.fromarray(pixels[top:bottom, left:right])
            for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True)
        ]

    def rows(self) -> list[JsonObject]:
        """Return name, label, score and corners of each box."""
        cells = zip(self.names, self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return [dict(zip(COLUMNS, (*others, *box), strict=True)) for *others, box in cells]

    def columns(self) -> list[str]:
        """Return the keys of `rows()`."""
        return list(COLUMNS)

    def to_dict(self) -> JsonObject:
        """Return the image's path and the rows, with masks as COCO's run lengths; `json.dumps` accepts the dict."""
        rows = self.rows()
        for row, code in zip(rows, self.outlines.codes if self.outlines else (), strict=False):
            row["segmentation"] = plain(code)
        return {"image": self.path, "results": rows}

    def to_coco(self, image_id: int = 0) -> list[JsonObject]:
        """Return COCO's results: boxes as x, y, width, height rounded to 0.001 pixels, and masks as run lengths."""
        found: list[JsonObject] = []
        for box, score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True):
            left, top, right, bottom = box
            bbox = [round(value, 3) for value in (left, top, right - left, bottom - top)]
            found.append({"image_id": image_id, "category_id": label, "bbox": bbox, "score": round(score, 5)})
        for row, code in zip(found, self.outlines.codes if self.outlines else (), strict=False):
            row["segmentation"] = plain(code)
        return found

    def to_supervision(self) -> supervision.Detections:
        """Return `supervision.Detections` with the names as `data["class_name"]`.

        Raises:
            UserError: supervision is not installed.
        """
        kind, masks = optional("supervision", extra="results").Detections, self.masks
        return kind(
            xyxy=self.boxes.numpy().astype(np.float32).reshape(-1, 4),
            confidence=self.scores.numpy().astype(np.float32),
            class_id=self.labels.numpy().astype(int),
            mask=None if masks is None else masks.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )


def plain(code: CompressedRuns) -> CompressedMask:
    """Return a run-length code with text in place of bytes, as JSON needs it."""
    return {"size": list(code["size"]), "counts": code["counts"].decode()}
