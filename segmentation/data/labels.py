"""Reads label map files as class numbers, and finds out what the pixels of the files mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from backbones.common.datasets import spread
from backbones.common.images import image_size, open_image
from backbones.common.suffixes import ARRAY_SUFFIX
from backbones.errors import UserError
from segmentation.data.classes import IGNORE, Classes, Colour

# Meaning of grey images: class numbers; colours of the classes; or 0 and 255 for classes 0 and 1.
Greys: TypeAlias = Literal["numbers", "colours", "black and white"]
LOOKED_AT = 32  # grey label maps that decide what the grey values mean
WHITE = 255


@dataclass(frozen=True)
class LabelCode:
    """Meaning of the pixels in the label maps of a data set.

    Attributes:
        classes: the classes of the data set.
        ignore_index: number in the files that marks pixels to ignore.
        greys: what the values of grey images mean.
        palette: colours of the first palette image, by number; other palette images must have the same.
        palette_file: the first palette image.
    """

    classes: Classes
    ignore_index: int = IGNORE
    greys: Greys = "numbers"
    palette: tuple[Colour, ...] = ()
    palette_file: Path | None = None

    @classmethod
    def of(cls, files: Sequence[Path], classes: Classes, *, ignore_index: int) -> LabelCode:
        """Find out from a data set's label maps what their pixels mean.

        Args:
            files: all label maps of the data set. A few evenly spread ones are read, and more only if these leave the
                meaning open. Files that do not decode are skipped.
        """
        coloured = ((palette, file) for file in _spread(files) if (palette := read_palette(file)))
        return cls(classes, ignore_index, _meaning_of_greys(files, classes, ignore_index), *next(coloured, ()))


def label_size(path: Path) -> tuple[int, int]:
    """Return height and width of a label map according to its file's header.

    Raises:
        UserError: the file is missing or does not decode.
    """
    if path.suffix.lower() == ARRAY_SUFFIX:
        height, width = _decode(path)[0].shape
        return height, width
    return image_size(path, apply_exif=False)


def read_labels(path: Path, code: LabelCode, *, size: tuple[int, int]) -> np.ndarray:
    """Read a label map file as class numbers `[H, W]` uint8. `IGNORE` marks pixels to ignore.

    Palette images contain class numbers. `code.greys` says what the values of grey images mean. RGB images are read by
    the colours of the classes, if those are given.

    Args:
        path: the file.
        code: meaning of the pixels.
        size: height and width of the image that the label map belongs to.

    Raises:
        UserError: the file is no image, has another size, is RGB while classes have no colours, has another palette
            than other files, or holds a value that is no class.
    """
    pixels = read_label_pixels(path, code)
    if pixels.shape[:2] != size:
        raise UserError(
            f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} pixels, but its image is {size[1]}x{size[0]}; "
            "give the label map the size of its image"
        )
    return to_class_numbers(pixels, path, code)


def read_label_pixels(path: Path, code: LabelCode) -> np.ndarray:
    """Decode a label map file to class numbers `[H, W]` or to RGB colours `[H, W, 3]`, both int32.

    Grey images become RGB if they hold the colours of the classes. Palette images become RGB if the classes have
    colours and the palette does not list these colours in the same order, because its numbers are not the class
    numbers then.

    Raises:
        UserError: the file is missing, does not decode, or has another palette than other files of the data set.
    """
    pixels, palette = _decode(path)
    if palette:
        return _by_palette(pixels, palette, path, code)
    if pixels.ndim == 3 or code.greys == "numbers":
        return pixels
    if code.greys == "black and white":
        return _by_black_and_white(pixels, path, code)
    ignored = (pixels == code.ignore_index) & ~np.isin(pixels, _grey_values(code.classes))
    return np.where(ignored[..., None], -1, np.repeat(pixels[..., None], 3, axis=2))


def to_class_numbers(pixels: np.ndarray, path: Path, code: LabelCode) -> np.ndarray:
    """Convert pixels from `read_label_pixels` to class numbers `[H, W]` uint8. `IGNORE` marks pixels to ignore.

    Raises:
        UserError: the pixels are RGB while classes have no colours, or hold a value or colour that is no class.
    """
    classes, ignore_index = code.classes, code.ignore_index
    if pixels.ndim == 3:
        return _by_colour(pixels, classes, path)
    ignored = pixels == (IGNORE if code.greys == "black and white" else ignore_index)
    wrong = ((pixels < 0) | (pixels >= len(classes))) & ~ignored
    if wrong.any():
        raise UserError(
            f"{path}: holds the value {int(pixels[wrong][0])}, which is neither a class (0 to {len(classes) - 1}) nor "
            f"--ignore-index {ignore_index}; fix the file, classes.txt or the option"
        )
    return np.where(ignored, IGNORE, pixels).astype(np.uint8)


def read_palette(path: Path) -> tuple[Colour, ...]:
    """Return the palette's colours of a palette image, or nothing if the file is another image or does not decode.

    If it does not decode, reading the label map later raises the error.
    """
    try:
        with open_image(path) as image:
            values = image.getpalette("RGB") if image.mode == "P" else None
    except (OSError, SyntaxError, ValueError):
        values = None
    return _colours(values)


def _decode(path: Path) -> tuple[np.ndarray, tuple[Colour, ...]]:
    """Decode a file to grey values or palette indices `[H, W]`, or to RGB `[H, W, 3]`; return also the palette."""
    try:
        if path.suffix.lower() == ARRAY_SUFFIX:
            return _array(path), ()
        with open_image(path) as image:
            palette = _colours(image.getpalette("RGB") if image.mode == "P" else None)
            if image.format == "GIF" and all(len(set(colour)) == 1 for colour in palette):
                # Writers of GIF number the colours anew; a grey image becomes one with a palette.
                return np.asarray(image.convert("L")).astype(np.int32), ()
            flat = image.mode in ("L", "P", "I", "I;16", "1")
            return np.asarray(image if flat else image.convert("RGB")).astype(np.int32), palette
    except FileNotFoundError:
        raise UserError(f"{path}: no such label map; every image needs a label map of the same name") from None
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError):
        raise UserError(f"{path}: does not decode: truncated, damaged or not an image; replace the file") from None


def _array(path: Path) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    if array.ndim != 2 or array.dtype.kind not in "buif" or (array != array.astype(np.int32)).any():
        raise UserError(f"{path}: expected an array [H, W] of class numbers; fix the file")
    return array.astype(np.int32)


def _colours(values: Sequence[int] | None) -> tuple[Colour, ...]:
    return tuple(zip(*[iter(values or ())] * 3, strict=False))


def _by_palette(pixels: np.ndarray, palette: tuple[Colour, ...], path: Path, code: LabelCode) -> np.ndarray:
    """Return a palette image's indices `[H, W]` if they are class numbers, else its colours `[H, W, 3]`."""
    if not code.classes.given and palette == code.palette:
        return pixels
    used = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    if code.classes.given:
        known = {*range(len(code.classes)), code.ignore_index}
        numbered = palette[: len(code.classes)] == code.classes.colours and known.issuperset(used)
        table = np.array([*palette, *[(-2, -2, -2)] * 256], np.int32)  # no class has the colour -2 -2 -2
        return pixels if numbered else table[pixels]
    for number in used:
        ours, theirs = (colours[number : number + 1] for colours in (palette, code.palette))
        if ours and theirs and ours != theirs and number != code.ignore_index:
            raise UserError(
                f"{path}: class number {number} has colour {_shown(ours[0])} in this file's palette but "
                f"{_shown(theirs[0])} in {code.palette_file}; list the class colours in classes.txt, one "
                "line per class: NAME RED GREEN BLUE"
            )
    return pixels


def _by_black_and_white(pixels: np.ndarray, path: Path, code: LabelCode) -> np.ndarray:
    """Convert grey values 0 and 255 to class numbers 0 and 1. The data set's `ignore_index` becomes `IGNORE`."""
    white = pixels == WHITE
    ignored = (pixels == code.ignore_index) & ~white
    wrong = (pixels != 0) & ~white & ~ignored
    if wrong.any():
        raise UserError(
            f"{path}: holds the value {int(pixels[wrong][0])}, but other label maps of the data set hold only 0 and "
            "255; write class numbers or 0 and 255 in all of them"
        )
    return np.where(ignored, IGNORE, white).astype(np.int32)


def _by_colour(pixels: np.ndarray, classes: Classes, path: Path) -> np.ndarray:
    """Convert RGB colours `[H, W, 3]` to class numbers `[H, W]` uint8. Ignored pixels are (-1, -1, -1)."""
    if not classes.given:
        raise UserError(
            f"{path}: is an RGB image, but the data set does not say which colour each class has; store "
            "class numbers as a grey or palette PNG, or list the class colours in classes.txt, one line "
            "per class: NAME RED GREEN BLUE"
        )
    colours = [*classes.colours, (-1, -1, -1), *([classes.void] if classes.void else [])]
    numbers = np.array([*range(len(classes)), IGNORE, *([IGNORE] if classes.void else [])])
    # Pack each colour into one number, then find it among the sorted colours of the classes.
    weights = np.array([65536, 256, 1])
    codes, known = pixels @ weights, np.array(colours) @ weights
    order = np.argsort(known)
    index = order[np.searchsorted(known[order], codes).clip(max=len(known) - 1)]
    wrong = known[index] != codes
    if wrong.any():
        raise UserError(
            f"{path}: contains the colour {_shown(pixels[wrong][0])}, which is not in classes.txt; add a "
            "class with this colour, or a line with this colour and the name void"
        )
    return numbers[index].astype(np.uint8)


def _shown(colour: Sequence[int] | np.ndarray) -> str:
    return " ".join(map(str, colour))


def _grey_values(classes: Classes) -> list[int]:
    """Return the grey values among the colours of the classes and of void."""
    colours = [*classes.colours, *([classes.void] if classes.void else [])] if classes.given else []
    return [red for red, green, blue in colours if red == green == blue]


def _meaning_of_greys(files: Sequence[Path], classes: Classes, ignore_index: int) -> Greys:
    """Decide from the values that occur in grey label maps what these values mean."""
    greys = set(_grey_values(classes))
    if len(classes) > 2 and not greys:
        return "numbers"
    # Zero alone tells nothing: read on until another value comes.
    values = _values_of(files, enough=lambda found: bool(found - {0}))
    if values & greys and values <= {*greys, ignore_index}:
        # Values that are also class numbers are colours only where every class has a grey colour.
        every = all(len(set(colour)) == 1 for colour in classes.colours)
        if every or not values <= {*range(len(classes)), ignore_index} - {WHITE}:
            return "colours"
    whole = len(classes) == 2 and WHITE in values and values <= {0, WHITE, ignore_index}
    return "black and white" if whole else "numbers"


def holds_two_greys(files: Sequence[Path]) -> bool:
    """Return whether label maps are grey and hold two values, 0 and 255 or 0 and 1, so that their classes are plain."""
    chosen = _spread(files)
    if any(read_palette(file) or _is_coloured(file) for file in chosen):
        return False
    return _values_of(files, enough=lambda found: len(found) > 1) in ({0, 1}, {0, WHITE})


def _is_coloured(path: Path) -> bool:
    try:
        return _decode(path)[0].ndim == 3
    except UserError:
        return False


def _values_of(files: Sequence[Path], *, enough: Callable[[set[int]], bool]) -> set[int]:
    """Return the values in `LOOKED_AT` evenly spread grey images, and in further images until `enough` is true."""
    found = set().union(*map(_grey_values_in, _spread(files)))
    for file in files:
        if enough(found):
            break
        found |= _grey_values_in(file)
    return found


def _spread(files: Sequence[Path]) -> list[Path]:
    """Return `LOOKED_AT` evenly spread files."""
    return [files[index] for index in spread(len(files), LOOKED_AT)]


def _grey_values_in(path: Path) -> set[int]:
    """Return the values in a grey image, or nothing if the file is another image or does not decode."""
    try:
        pixels, palette = _decode(path)
    except UserError:
        return set()
    return set() if palette or pixels.ndim == 3 else set(np.unique(pixels).tolist())
