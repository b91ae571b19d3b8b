"""The parts of a report as plain data, and the page that the templates make of them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

TEMPLATES = Path(__file__).with_name("templates")
GENERATOR = "resnet-transfer report"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        key: what its column is sorted by; None sorts last.
        bar: a share of 0..1 drawn behind the text.
        tone: good or bad, of differences that are no chance.
        code: a text of the machine, such as a file's name.
    """

    text: str
    key: float | str | None = None
    bar: float | None = None
    tone: Literal["", "good", "bad"] = ""
    code: bool = False

    @property
    def sort_key(self) -> str:
        """As text, for the page's script."""
        return "" if self.key is None else str(self.key)


@dataclass(frozen=True)
class Column:
    """A table's column; numbers stand to the right."""

    title: str
    number: bool = True
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Rows that the reader can sort."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Line:
    """An entry of a chart's legend: a name, its colour's number and whether it is dashed."""

    name: str
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A picture in SVG (trusted: written by us) with its legend."""

    title: str
    svg: str
    lines: Sequence[Line] = ()
    note: str = ""
    kind: str = "chart"


@dataclass(frozen=True)
class Matrix:
    """Counts of what was taken for what.

    Attributes:
        cells: by row, the text, the share of its row (0..1) and whether it is right.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[tuple[str, float, bool]]]
    note: str = ""
    kind: str = "matrix"


@dataclass(frozen=True)
class Mark:
    """A box over a picture, x, y, width and height in its pixels.

    Attributes:
        look: hit, missed, invented, truth or crowd.
        label: written beside the box; hint: shown under the pointer.
    """

    box: tuple[float, float, float, float]
    look: str
    label: str = ""
    hint: str = ""


@dataclass(frozen=True)
class View:
    """A picture as a data URI, with boxes over it.

    Attributes:
        width, height: in the pixels that the marks count in.
        name: a word above it, where several views stand side by side.
    """

    uri: str
    width: float
    height: float
    marks: Sequence[Mark] = ()
    name: str = ""
    alt: str = ""

    @property
    def text(self) -> float:
        """Size of the labels in those pixels, so that they read alike on any picture."""
        return max(self.width, self.height * 1.2) / 26


@dataclass(frozen=True)
class Picture:
    """One entry of a gallery: views side by side, and what there is to say."""

    views: Sequence[View]
    title: str
    text: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures of one kind; `small` ones are many in a row."""

    title: str
    pictures: Sequence[Picture]
    note: str = ""
    small: bool = False
    legend: bool = False
    kind: str = "gallery"


@dataclass(frozen=True)
class Swatches:
    """What the colours of pictures mean: names with red, green and blue of 0..255."""

    entries: Sequence[tuple[str, tuple[int, int, int]]]
    kind: str = "swatches"


@dataclass(frozen=True)
class Note:
    """A paragraph; `warning` where something is missing or odd."""

    text: str
    warning: bool = False
    kind: str = "note"


@dataclass(frozen=True)
class Side:
    """Blocks side by side where the screen is wide enough; tables take the width that they need."""

    blocks: Sequence[Any]
    tables: bool = False
    kind: str = "side"


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them."""

    title: str
    blocks: Sequence[Any]
    kind: str = "folded"


@dataclass(frozen=True)
class Section:
    """A chapter of the report."""

    title: str
    blocks: Sequence[Any]
    intro: str = ""

    @property
    def anchor(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        facts: the figures at the top: title, value, and a line below.
        subject: what it is a report of, so that another's is not overwritten.
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, str, str]]
    sections: Sequence[Section]
    subject: str
    made: str = ""
    runs: Sequence[Line] = field(default_factory=tuple)


def render(page: Page) -> str:
    """The page as HTML that needs nothing else. Everything but our own SVG, style and script is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("sort.js", "style.css"))
    # Only this very script may run, should a hostile name ever get past the escaping.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    text = environment.get_template("page.html").render(
        page=page,
        policy=policy,
        script=Markup(script),
        style=Markup(style),
        trusted=Markup,
        generator=generator(page.subject),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # half a pair of surrogates fits no file


def generator(subject: str) -> str:
    """What a report says of itself, by which it is known again."""
    return f"{GENERATOR} {hashlib.sha256(subject.encode('utf-8', 'replace')).hexdigest()[:16]}"


# --- texts ---


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}"


def share(value: float | None) -> Cell:
    """A fraction in percent over a bar."""
    return Cell(percent(value), key=value, bar=value)


def count(value: int | None) -> Cell:
    """A whole number with its thousands apart."""
    return Cell("n/a" if value is None else f"{value:,}", key=value)


def folded(parts: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
    """Blocks by run: of a single run as they are, of several behind a line each."""
    if len(parts) == 1:
        return list(parts[0][1])
    return [Folded(name, blocks) for name, blocks in parts]


def titles(runs: Sequence[Any], alone: str, before: str = "") -> list[Column]:
    """A column of numbers for each run: of a single one without its name, which the page's title has.

    Args:
        alone: the title for a single run; before: stands before the names of several.
    """
    return [Column(alone)] if len(runs) == 1 else [Column(before + run.name) for run in runs]


def word(text: str) -> Cell:
    """A text, sorted as such."""
    return Cell(text, key=text.casefold())
