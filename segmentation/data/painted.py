"""Label maps that are painted from outlines while they are read: of LabelMe's and Label Studio's annotations."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from backbones.common.bits import WHOLE_BITS, require_bits
from backbones.common.brush import decode_brush
from backbones.common.images import image_size, read_image
from backbones.common.outlines import paint
from backbones.common.spellings import note_of
from backbones.errors import UserError, first_names
from segmentation.data.classes import IGNORE, Classes

Form: TypeAlias = Literal["polygon", "brush", "runs"]
BACKGROUND = ("background", "_background_", "__background__")  # names that tools give the class of other pixels
IGNORED = ("__ignore__", "ignore", "void")  # names of pixels that do not count


@dataclass(frozen=True)
class Shape:
    """An outline of one class.

    Attributes:
        label: the class.
        form: what the values are: points x, y, x, y, ... in pixels, run lengths of Label Studio's brush, or COCO's
            uncompressed run lengths.
        values: the numbers.
    """

    label: str
    form: Form
    values: Sequence[float]


@dataclass(frozen=True)
class OutlinedImage:
    """An image with its outlines, of which later ones cover earlier ones.

    Attributes:
        path: the image file.
        size: height and width; None to read them from the file.
        shapes: the outlines.
        where: file and record that hold the outlines, for messages.
    """

    path: Path
    size: tuple[int, int] | None
    shapes: Sequence[Shape]
    where: str


class PaintedLabels:
    """Images of a split and their label maps, which are painted from outlines. Implements `LabelSource`.

    Class 0 is the background. The other classes are those of `names`.

    Args:
        images: the images with their outlines.
        names: names of the classes of all splits.
        spellings: the name to use for each label that differs from it in capitals.
        where: name of the data for messages.
        bits: bits that the values of 16-bit images use; None if the user named none.
        left_out: number of shapes that have no area, by their kind.

    Raises:
        UserError: there are no images or no classes, or a label map cannot hold so many.
    """

    def __init__(
        self,
        images: Sequence[OutlinedImage],
        *,
        names: Sequence[str],
        spellings: Mapping[str, str] | None = None,
        where: str,
        bits: int | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        if not images:
            raise UserError(f"{where}: has no images with annotations; add images, or check --data")
        given = [name for name in dict.fromkeys(names) if name.lower() not in (*BACKGROUND, *IGNORED)]
        if not 0 < len(given) < IGNORE:
            raise UserError(f"{where}: the outlines have {len(given)} classes; expected 1 to {IGNORE - 1}")
        self.classes = Classes.named(("background", *given))
        self.where, self.bits = where, bits or WHOLE_BITS
        self.passed_over: Mapping[str, int] = {}  # the annotations name their images
        self._spellings = spellings or {}
        labels = Counter(shape.label for image in images for shape in image.shapes if shape.label in self._spellings)
        respelled = {note_of(label, self._spellings): count for label, count in labels.items()}
        self.notes: Mapping[str, int] = {**(left_out or {}), **respelled}
        self.in_channels = 3
        self._numbers = {name: number for number, name in enumerate(self.classes.names)}
        # Pack everything into arrays: reading Python objects would copy their memory into each worker.
        self._files = np.array([os.fsencode(image.path) for image in images])
        self._where = np.array([os.fsencode(image.where) for image in images])
        self._sizes = np.array([image.size or (0, 0) for image in images], np.int64)
        texts = [json.dumps([self._packed(shape) for shape in image.shapes]).encode() for image in images]
        self._ends = np.cumsum([0, *map(len, texts)])
        self._text = np.frombuffer(b"".join(texts), np.uint8)
        require_bits([image.path for image in images], bits)

    def __len__(self) -> int:
        return len(self._files)

    def image(self, row: int) -> np.ndarray:
        return read_image(self.file(row), size=self.size(row), bits=self.bits)

    def size(self, row: int) -> tuple[int, int]:
        height, width = self._sizes[row].tolist()
        return (height, width) if height and width else image_size(self.file(row), apply_exif=True)

    def file(self, row: int) -> Path:
        return Path(os.fsdecode(self._files[row]))

    def labels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        found = np.zeros(size, np.uint8)
        shapes = json.loads(self._text[self._ends[row] : self._ends[row + 1]].tobytes())
        for number, form, values in shapes:
            try:
                mask = _paint(form, values, size)
            except ValueError as error:
                name = "ignored pixels" if number == IGNORE else self.classes.names[number]
                text = f"an outline of {name} is malformed ({error})"
                raise UserError(f"{os.fsdecode(self._where[row])}: {text}; fix the file") from None
            found[mask] = number
        return found

    def _packed(self, shape: Shape) -> tuple[int, Form, list[float]]:
        if shape.label.lower() in IGNORED:
            return IGNORE, shape.form, list(shape.values)
        label = self._spellings.get(shape.label, shape.label)
        number = 0 if label.lower() in BACKGROUND else self._numbers.get(label)
        if number is None:
            known = first_names(self.classes.names)
            raise UserError(f"{self.where}: {shape.label} is not one of the classes ({known}); fix the list of classes")
        return number, shape.form, list(shape.values)


def _paint(form: Form, values: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """Return the mask `[H, W]` bool of an outline in an image of size (height, width).

    Raises:
        ValueError: the outline is malformed, or made for an image of another size.
    """
    if form == "brush":
        return decode_brush(values, size)
    return paint([values] if form == "polygon" else {"size": list(size), "counts": values}, size)
