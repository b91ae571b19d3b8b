"""The parts of a report page as plain data; `tools.reports.rendering` makes HTML of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    from tools.runs.outcomes import Box

MarkStyle: TypeAlias = Literal["correct", "false-positive", "missed", "found", "ignored"]


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        key: the value that its column is sorted by; None sorts last.
        bar: a fraction 0..1 that is drawn as a bar behind the text.
        tone: colour of a difference whose interval excludes zero.
        code: whether the text is code, such as the value of an option.
    """

    text: str
    key: float | str | None = None
    bar: float | None = None
    tone: Literal["", "good", "bad"] = ""
    code: bool = False

    @property
    def sort_key(self) -> str:
        """The key as text, for the script of the page."""
        return "" if self.key is None else str(self.key)


@dataclass(frozen=True)
class TableColumn:
    """A column of a table.

    Attributes:
        number: whether the cells are numbers, which are aligned right and sorted from the largest.
        help: tooltip of the title.
    """

    title: str
    number: bool = True
    help: str = ""


@dataclass(frozen=True)
class SortableTable:
    """A table that the reader can sort by any column."""

    kind: ClassVar = "table"
    caption: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[TableCell]]
    note: str = ""


@dataclass(frozen=True)
class LegendEntry:
    """An entry of a legend.

    Attributes:
        colour: index of its colour in the palette of the page.
    """

    name: str
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class SvgChart:
    """A chart with its legend.

    Attributes:
        svg: an `svg` element. It is not escaped, so it must come from `tools.reports.charts`.
    """

    kind: ClassVar = "chart"
    title: str
    svg: str
    legend: Sequence[LegendEntry] = ()
    note: str = ""


@dataclass(frozen=True)
class MatrixCell:
    """A cell of a confusion matrix.

    Attributes:
        fraction: fraction of its row, 0..1, shown as the strength of its colour.
        correct: whether true class and predicted class are the same.
    """

    text: str
    fraction: float
    correct: bool


@dataclass(frozen=True)
class ConfusionTable:
    """A confusion matrix: a row for each true class, a column for each predicted class."""

    kind: ClassVar = "matrix"
    title: str
    classes: Sequence[str]
    cells: Sequence[Sequence[MatrixCell]]


@dataclass(frozen=True)
class BoxMark:
    """A box over an image.

    Attributes:
        box: x, y, width and height in pixels of the image.
        style: colour and line of the box.
        label: text beside the box.
        hint: tooltip of the box.
    """

    box: Box
    style: MarkStyle
    label: str = ""
    hint: str = ""


@dataclass(frozen=True)
class PageImage:
    """An image as a data URI, with boxes over it.

    Attributes:
        width: width of the coordinates of the boxes, in pixels.
        height: height of the coordinates of the boxes, in pixels.
        name: caption above the image, for several images side by side.
        alt: text for readers who do not see the image.
    """

    uri: str
    width: float
    height: float
    marks: Sequence[BoxMark] = ()
    name: str = ""
    alt: str = ""

    @property
    def label_size(self) -> float:
        """The font size of the labels in pixels of the image; it looks the same on images of all sizes."""
        return max(self.width, self.height * 1.2) / 26


@dataclass(frozen=True)
class GalleryItem:
    """An entry of a gallery: images side by side with a caption."""

    images: Sequence[PageImage]
    title: str
    text: str = ""


@dataclass(frozen=True)
class Gallery:
    """A grid of images.

    Attributes:
        small: whether the images are small, with many in a row.
        legend: whether the legend of the boxes is shown.
    """

    kind: ClassVar = "gallery"
    title: str
    items: Sequence[GalleryItem]
    note: str = ""
    small: bool = False
    legend: bool = False


@dataclass(frozen=True)
class ColourLegend:
    """The legend of label maps: names of classes with red, green and blue in 0..255."""

    kind: ClassVar = "colours"
    entries: Sequence[tuple[str, tuple[int, int, int]]]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text; a warning is also printed by the command."""

    kind: ClassVar = "paragraph"
    text: str
    warning: bool = False


@dataclass(frozen=True)
class SideBySide:
    """Blocks side by side on a wide screen.

    Attributes:
        tables: whether the blocks are tables, which get the width that they need; other blocks get equal widths.
    """

    kind: ClassVar = "side"
    blocks: Sequence[Block]
    tables: bool = False


@dataclass(frozen=True)
class FoldedBlocks:
    """Blocks that are hidden until the reader opens them."""

    kind: ClassVar = "folded"
    title: str
    blocks: Sequence[Block]


Block: TypeAlias = (
    SortableTable | SvgChart | ConfusionTable | Gallery | ColourLegend | Paragraph | SideBySide | FoldedBlocks
)


@dataclass(frozen=True)
class Section:
    """A chapter of the report."""

    title: str
    blocks: Sequence[Block]
    intro: str = ""

    @property
    def anchor(self) -> str:
        """The id of the chapter in the page."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


@dataclass(frozen=True)
class ReportPage:
    """A whole report.

    Attributes:
        lead: the sentence below the title.
        facts: names and values at the top.
        subject: identifies the runs, so that the report of other runs is not overwritten.
        footer: the sentence at the end.
        runs: legend of the runs, for several runs.
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    subject: str
    footer: str = ""
    runs: Sequence[LegendEntry] = ()

    def warnings(self) -> list[str]:
        """Return the texts of the warnings at the top level of all chapters."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [block.text for block in blocks if isinstance(block, Paragraph) and block.warning]
