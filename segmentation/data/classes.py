"""Names and colours of the classes in label maps, and the files that list them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.common.colours import Colour, colour_of
from backbones.common.datasets import listed_lines
from backbones.errors import UserError, counted

IGNORE = 255  # label of pixels that count in no loss and no metric
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# A line of a class list with a colour: "road 128 64 128" or "road, 128, 64, 128"; "road #804080"; CVAT's
# "road:128,64,128:parts:actions".
RGB_LINE = re.compile(r"(.*[^\s,])[\s,]+([0-9]+)[\s,]+([0-9]+)[\s,]+([0-9]+)[\s,]*")
HEX_LINE = re.compile(r"(.*[^\s,])[\s,]+#" + "([0-9a-fA-F]{2})" * 3 + r"\s*")
CVAT_LINE = re.compile(r"([^:]+):([0-9]+),([0-9]+),([0-9]+):[^:]*:[^:]*")


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
        """Return the class numbers to colour in drawings: all except a background class, which would hide the image."""
        bare = self.names[0].strip("_").lower() == "background"
        return list(range(int(bare), len(self.names)))

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """Return classes with these names and automatically chosen colours."""
        return cls(tuple(names), tuple(colour_of(number) for number in range(len(names))))

    @classmethod
    def read(cls, path: Path) -> Classes:
        """Read a `classes.txt`, or CVAT's `labelmap.txt`: one class per line, its name and, optionally, its colour.

        A colour is red, green and blue of 0..255, or `#rrggbb`; CVAT's lines are `name:r,g,b:parts:actions`. Blank
        lines and comments from `#` on are left out. With colours, a line named `void` is no class: it gives the colour
        of pixels to ignore.

        Raises:
            UserError: the file cannot be read, has too few or too many classes, duplicate names or colours, or colours
                for some classes only.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); write one class name per line, class 0 first") from None
        rows = [_parse_class(line, f"{path}: line {number}") for number, line in listed_lines(text)]
        void = next((colour for name, colour in rows if name.lower() == "void"), None)
        rows = [row for row in rows if row[0].lower() != "void" or void is None]
        names = [name for name, _ in rows]
        if not 1 < len(names) < IGNORE:
            raise UserError(f"{path}: lists {counted(len(names), 'class')}; expected 2 to {IGNORE - 1}, one per line")
        duplicate = next((name for name in names if names.count(name) > 1), None)
        if duplicate:
            raise UserError(
                f"{path}: the class name {duplicate} occurs more than once; give each class a different name"
            )
        colours = [colour for _, colour in rows if colour is not None]
        shared = next((colour for colour in colours if [*colours, void].count(colour) > 1), None)
        if shared:
            raise UserError(
                f"{path}: two lines have the colour {' '.join(map(str, shared))}; give each class a different colour"
            )
        if colours and len(colours) < len(names):
            raise UserError(
                f"{path}: only {len(colours)} of {len(names)} classes have a colour; give a colour to every "
                "class or to none"
            )
        return cls(tuple(names), tuple(colours), given=True, void=void) if colours else cls.named(names)

    def __len__(self) -> int:
        return len(self.names)


def _parse_class(line: str, where: str) -> tuple[str, Colour | None]:
    """Parse a line of `classes.txt`: the class name and, if present, its colour."""
    for form in (CVAT_LINE, HEX_LINE, RGB_LINE):
        if match := form.fullmatch(line):
            name, *parts = match.groups()
            values = [int(part, 16 if form is HEX_LINE else 10) for part in parts]
            if max(values) > 255:
                raise UserError(
                    f"{where}: colour {' '.join(map(str, values))} has a value above 255; use values from 0 to 255"
                )
            red, green, blue = values
            return " ".join(name.split()), (red, green, blue)
    return " ".join(line.split()), None
