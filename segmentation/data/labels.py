"""Label maps: the classes they speak of, their files, and the numbers that may stand in them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.common.images import open_image
from backbones.errors import UserError

Colour = tuple[int, int, int]


VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """Names by class number, with a colour each for pictures.

    Attributes:
        given: whether the colours are the data set's own, so that an RGB label map can be read by them.
        void: the colour there of pixels that do not count.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    given: bool = False
    void: Colour | None = None

    @property
    def coloured(self) -> list[int]:
        """Numbers of the classes that pictures colour: not the background, VOC's first, which would hide all."""
        bare = self.names[0].strip("_").lower() == "background"
        return list(range(int(bare), len(self.names)))

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """Classes with colours of our own."""
        return cls(tuple(names), tuple(colour(number) for number in range(len(names))))

    @classmethod
    def read(cls, path: Path) -> Classes:
        """From a `classes.txt`: a line a class, its name and, optionally, red, green and blue of 0..255.

        With colours, a line `void` is no class but the colour of pixels that do not count.

        Raises:
            UserError: naming the line, for a name without letters, a name that stands twice, or colours for some only.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); write one class name a line, class 0 first") from None
        rows = [_row(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line.strip()]
        void = next((colour for name, colour in rows if name.lower() == "void"), None)
        rows = [row for row in rows if row[0].lower() != "void" or void is None]
        names = [name for name, _ in rows]
        if not 1 < len(names) < IGNORE:
            raise UserError(f"{path}: names {len(names)} classes; expected 2 to {IGNORE - 1}, one a line")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UserError(f"{path}: {twice} stands twice; each class needs a name of its own")
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
    """A label map's file as class numbers `[H, W]` uint8, with 255 where nothing counts.

    Grey and palette pictures hold class numbers; RGB ones are read by the colours of `classes`, if it has some.

    Args:
        size: height and width of its image.
        ignore_index: the file's number for pixels that do not count.

    Raises:
        UserError: naming the file: no picture, another size than its image, RGB without colours to read it by, or a
            value that is no class.
    """
    pixels = read_pixels(path, classes)
    if pixels.shape[:2] != size:
        raise UserError(
            f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} pixels, but its image is {size[1]}x{size[0]}; "
            "label maps need their image's size"
        )
    return to_numbers(pixels, path, classes, ignore_index=ignore_index)


def read_pixels(path: Path, classes: Classes) -> np.ndarray:
    """`[H, W]` numbers of a grey or palette label map, `[H, W, 3]` of another.

    A palette whose colours are not the classes', in their order, says nothing by its numbers.

    Raises:
        UserError: where it is missing or does not decode.
    """
    try:
        with open_image(path) as picture:
            whole = picture.mode in ("L", "P", "I", "I;16", "1")
            if picture.mode == "P" and classes.given:
                own = tuple(zip(*[iter(picture.getpalette("RGB") or ())] * 3, strict=False))
                whole = own[: len(classes)] == classes.colours
            return np.asarray(picture if whole else picture.convert("RGB")).astype(np.int32)
    except FileNotFoundError:
        raise UserError(f"{path}: no such label map; every image needs one of its name") from None
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path}: does not decode: cut short, damaged or no picture; replace it") from None


def to_numbers(pixels: np.ndarray, path: Path, classes: Classes, *, ignore_index: int) -> np.ndarray:
    """What `read_pixels` gave as class numbers `[H, W]` uint8, with 255 where nothing counts.

    Raises:
        UserError: naming the file: RGB without colours to read it by, or a value or colour that is no class.
    """
    if pixels.ndim == 3:
        return _by_colour(pixels, classes, path)
    ignored = pixels == ignore_index
    wrong = (pixels >= len(classes)) & ~ignored
    if wrong.any():
        raise UserError(
            f"{path}: holds the value {int(pixels[wrong][0])}, which is neither a class (0 to {len(classes) - 1}) nor "
            f"--ignore-index {ignore_index}; mend the file, classes.txt or the option"
        )
    return np.where(ignored, IGNORE, pixels).astype(np.uint8)


def palette(path: Path) -> tuple[Colour, ...]:
    """The colours of a palette picture by number; none of a grey one, or of none: its reading will say so."""
    try:
        with open_image(path) as picture:
            values = picture.getpalette("RGB") if picture.mode == "P" else None
    except (OSError, SyntaxError, ValueError):
        values = None
    return tuple(zip(*[iter(values or ())] * 3, strict=False))


def colour(number: int) -> Colour:
    """A colour for a class: hues a golden ratio apart, lighter and darker in turn."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.61803399 % 1, 0.8, (0.9, 0.6)[number % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def median_frequency_weights(counts: np.ndarray) -> np.ndarray:
    """Class weights `[K]` float32 (Eigen and Fergus 2015): the median of the classes' frequencies over each one's.

    A class's frequency is its pixels over all labelled pixels of the images that show it; 1 for a class that no image
    shows.

    Args:
        counts: pixels `[images, K]` of each class in each image.
    """
    shown = counts > 0
    totals = (shown * counts.sum(1, keepdims=True)).sum(0)
    known = totals > 0
    frequency = counts.sum(0)[known] / totals[known]
    weights = np.ones(counts.shape[1], np.float32)
    weights[known] = np.median(frequency) / frequency
    return weights


def _row(line: str, where: str) -> tuple[str, Colour | None]:
    words = line.replace(",", " ").split()
    if len(words) >= 4 and all(word.isascii() and word.isdigit() for word in words[-3:]):
        red, green, blue = map(int, words[-3:])
        if max(red, green, blue) > 255:
            raise UserError(f"{where}: colour {red} {green} {blue} goes beyond 255")
        return " ".join(words[:-3]), (red, green, blue)
    return " ".join(line.split()), None


def _by_colour(pixels: np.ndarray, classes: Classes, path: Path) -> np.ndarray:
    if not classes.given:
        raise UserError(
            f"{path}: is an RGB picture, whose colours say no class; store class numbers as a grey or palette PNG, "
            "or give each class's colour in classes.txt (name red green blue)"
        )
    colours = [*classes.colours, *([classes.void] if classes.void else [])]
    numbers = np.array([*range(len(classes)), *([IGNORE] if classes.void else [])])
    weights = np.array([65536, 256, 1])
    codes, known = pixels @ weights, np.array(colours) @ weights
    order = np.argsort(known)
    place = order[np.searchsorted(known[order], codes).clip(max=len(known) - 1)]
    wrong = known[place] != codes
    if wrong.any():
        shown = " ".join(map(str, pixels[wrong][0]))
        raise UserError(f"{path}: holds the colour {shown}, which no line of classes.txt has; name it, or call it void")
    return numbers[place].astype(np.uint8)


IGNORE = 255  # in label maps: no loss, no metric
