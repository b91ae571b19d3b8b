"""Fonts of drawings, for class names in any script."""

from __future__ import annotations

from functools import cache, lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=1 << 10)
def font_for(text: str, size: float = 10) -> Font:
    """Return a font for a text: Pillow's own for ASCII, which is all that it has; else the first that has all letters.

    The first is DejaVu Sans, which Matplotlib brings; then come the fonts of the system. Without any font that has all
    letters, it is the one that has most.
    """
    return ImageFont.load_default(size) if text.isascii() else ImageFont.truetype(_file_for(frozenset(text)), size)


@lru_cache(maxsize=1 << 10)
def _file_for(letters: frozenset[str]) -> str:
    from matplotlib import font_manager  # slow to import

    own = font_manager.findfont("DejaVu Sans")
    wanted = {ord(letter) for letter in letters if not letter.isspace()}
    if wanted <= _letters_of(own):
        return own
    # The Last Resort font has a sign for each script in place of letters.
    files = sorted({font.fname for font in font_manager.fontManager.ttflist if "Last Resort" not in font.name})
    return max([own, *files], key=lambda file: len(wanted & _letters_of(file)))


@cache
def _letters_of(file: str) -> frozenset[int]:
    """Return the codes of the letters that a font has; none if its letters are pictures of fixed sizes."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):  # a damaged file of the system
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
