"""Label maps: their classes, and the reading of their files as class numbers."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from backbones.common.images import open_image
from backbones.errors import UserError

IGNORE = 255  # label of pixels that count in no loss and no metric

Colour: TypeAlias = tuple[int, int, int]  # red, green, blue of 0..255

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """Names and colours by class number.

    Attributes:
        names: class names.
        colours: one colour per class, for drawing.
        given: whether the colours are the data set's own. RGB label maps can be read only then.
        void: the data set's colour of pixels to ignore, if it has one.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    given: bool = False
    void: Colour | None = None

    @property
    def coloured(self) -> list[int]:
        """Return the numbers of the classes to colour in drawings: all but a background, which would hide the image."""
        bare = self.names[0].strip("_").lower() == "background"
        return list(range(int(bare), len(self.names)))

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """Return classes with colours of our own."""
        return cls(tuple(names), tuple(colour_of(number) for number in range(len(names))))

    @classmethod
    def read(cls, path: Path) -> Classes:
        """Read a `classes.txt`: one class per line, its name and, optionally, red, green and blue of 0..255.

        With colours, a line named `void` is no class: it gives the colour of pixels to ignore.

        Raises:
            UserError: the file cannot be read, has too few or too many classes, duplicate names or colours, or colours
                for some classes only.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); write one class name a line, class 0 first") from None
        rows = [_parse_class(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line.strip()]
        void = next((colour for name, colour in rows if name.lower() == "void"), None)
        rows = [row for row in rows if row[0].lower() != "void" or void is None]
        names = [name for name, _ in rows]
        if not 1 < len(names) < IGNORE:
            raise UserError(f"{path}: names {len(names)} classes; expected 2 to {IGNORE - 1}, one a line")
        duplicate = next((name for name in names if names.count(name) > 1), None)
        if duplicate:
            raise UserError(f"{path}: {duplicate} is a duplicate; give each class a name of its own")
        colours = [colour for _, colour in rows if colour is not None]
        shared = next((colour for colour in colours if [*colours, void].count(colour) > 1), None)
        if shared:
            raise UserError(f"{path}: two lines have the colour {' '.join(map(str, shared))}; each needs its own")
        if colours and len(colours) < len(names):
            raise UserError(f"{path}: only {len(colours)} of {len(names)} classes have colours; give all or none")
        return cls(tuple(names), tuple(colours), given=True, void=void) if colours else cls.named(names)

    def __len__(self) -> int:
        return len(self.names)


def read_labels(path: Path, classes: Classes, *, size: tuple[int, int], ignore_index: int) -> np.ndarray:
    """Read a label map's file as class numbers `[H, W]` uint8; `IGNORE` marks pixels to ignore.

    Grey and palette images hold class numbers. RGB images are read by the colours of `classes`, if those are given.

    Args:
        path: the file.
        classes: the classes of the data set.
        size: height and width of the image that the label map belongs to.
        ignore_index: number in the file that marks pixels to ignore.

    Raises:
        UserError: the file is no image, has another size, is RGB while classes have no colours, or holds a value that
            is no class.
    """
    pixels = read_label_pixels(path, classes)
    if pixels.shape[:2] != size:
        raise UserError(
            f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} pixels, but its image is {size[1]}x{size[0]}; "
            "label maps need their image's size"
        )
    return to_class_numbers(pixels, path, classes, ignore_index=ignore_index)


def read_label_pixels(path: Path, classes: Classes) -> np.ndarray:
    """Decode a label map's file: to numbers `[H, W]` if it is grey or a palette image, else to RGB `[H, W, 3]`; int32.

    A palette image becomes RGB if its palette is not the colours of the classes in their order: its numbers do not
    mean the classes then.

    Raises:
        UserError: the file is missing or does not decode.
    """
    try:
        with open_image(path) as image:
            whole = image.mode in ("L", "P", "I", "I;16", "1")
            if image.mode == "P" and classes.given:
                own = tuple(zip(*[iter(image.getpalette("RGB") or ())] * 3, strict=False))
                whole = own[: len(classes)] == classes.colours
            return np.asarray(image if whole else image.convert("RGB")).astype(np.int32)
    except FileNotFoundError:
        raise UserError(f"{path}: no such label map; every image needs a label map of the same name") from None
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path}: does not decode: cut short, damaged or no image; replace it") from None


def to_class_numbers(pixels: np.ndarray, path: Path, classes: Classes, *, ignore_index: int) -> np.ndarray:
    """Convert the result of `read_label_pixels` to class numbers `[H, W]` uint8; `IGNORE` marks pixels to ignore.

    Raises:
        UserError: the pixels are RGB while classes have no colours, or hold a value or colour that is no class.
    """
    if pixels.ndim == 3:
        return _by_colour(pixels, classes, path)
    ignored = pixels == ignore_index
    wrong = (pixels >= len(classes)) & ~ignored
    if wrong.any():
        raise UserError(
            f"{path}: holds the value {int(pixels[wrong][0])}, which is neither a class (0 to {len(classes) - 1}) nor "
            f"--ignore-index {ignore_index}; fix the file, classes.txt or the option"
        )
    return np.where(ignored, IGNORE, pixels).astype(np.uint8)


def read_palette(path: Path) -> tuple[Colour, ...]:
    """Return the colours of a palette image by number; none if the file is another image or does not decode.

    Reading the label map later raises the error.
    """
    try:
        with open_image(path) as image:
            values = image.getpalette("RGB") if image.mode == "P" else None
    except (OSError, SyntaxError, ValueError):
        values = None
    return tuple(zip(*[iter(values or ())] * 3, strict=False))


def colour_of(number: int) -> Colour:
    """Return a colour for a class: hues differ by the golden ratio, and the brightness alternates."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.61803399 % 1, 0.8, (0.9, 0.6)[number % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def _parse_class(line: str, where: str) -> tuple[str, Colour | None]:
    """Return the name and the colour, if any, of a line of `classes.txt`."""
    words = line.replace(",", " ").split()
    if len(words) >= 4 and all(word.isascii() and word.isdigit() for word in words[-3:]):
        red, green, blue = map(int, words[-3:])
        if max(red, green, blue) > 255:
            raise UserError(f"{where}: colour {red} {green} {blue} goes beyond 255")
        return " ".join(words[:-3]), (red, green, blue)
    return " ".join(line.split()), None


def _by_colour(pixels: np.ndarray, classes: Classes, path: Path) -> np.ndarray:
    """Convert RGB `[H, W, 3]` to class numbers `[H, W]` uint8."""
    if not classes.given:
        raise UserError(
            f"{path}: is an RGB image, and its colours name no class; store class numbers as a grey or palette PNG, "
            "or give each class's colour in classes.txt (name red green blue)"
        )
    colours = [*classes.colours, *([classes.void] if classes.void else [])]
    numbers = np.array([*range(len(classes)), *([IGNORE] if classes.void else [])])
    # Pack each colour into one number, then find it among the sorted colours of the classes.
    weights = np.array([65536, 256, 1])
    codes, known = pixels @ weights, np.array(colours) @ weights
    order = np.argsort(known)
    index = order[np.searchsorted(known[order], codes).clip(max=len(known) - 1)]
    wrong = known[index] != codes
    if wrong.any():
        shown = " ".join(map(str, pixels[wrong][0]))
        raise UserError(
            f"{path}: holds the colour {shown}, which no line of classes.txt has; add a class of this colour, or "
            "a line named void"
        )
    return numbers[index].astype(np.uint8)
