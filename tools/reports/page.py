"""The parts of a report page as plain data, from which `tools.reports.rendering` makes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import numpy as np

from detection.label_places import place_labels

if TYPE_CHECKING:
    from tools.runs.outcomes import Box

LETTER, LINE, BASELINE = 0.6, 1.2, 0.95  # width of a letter, height and baseline of a line, in font sizes
EDGES = 130  # width of an image divided by that of a box's edge, on a page of usual width
MarkStyle: TypeAlias = Literal["correct", "false-positive", "missed", "found", "ignored"]


@dataclass(frozen=True)
class TableCell:
    """A cell of a table in a report.

    Attributes:
        key: value by which the column is sorted; None sorts last.
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
        """The sort key as text, for the page's script; "" sorts last."""
        return "" if self.key is None else str(self.key)


@dataclass(frozen=True)
class TableColumn:
    """Title and kind of a column of a table in a report.

    Attributes:
        number: whether the cells are numbers. Numbers are aligned right, and sorting begins with the largest.
        help: tooltip of the title.
    """

    title: str
    number: bool = True
    help: str = ""


@dataclass(frozen=True)
class SortableTable:
    """A table of a report that can be sorted by clicking on the title of any column."""

    kind: ClassVar = "table"
    caption: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[TableCell]]
    note: str = ""


@dataclass(frozen=True)
class LegendEntry:
    """An entry of a chart's legend: name, colour and line style.

    Attributes:
        colour: index of the entry's colour in the palette of the page.
    """

    name: str
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class SvgChart:
    """A chart of a report, with its title and legend.

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
        fraction: the cell's part of the sum of its row, 0..1, shown as strength of colour.
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
    """A box to draw over an image, such as an object or a detection.

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
    """An image as a data URI, with boxes to draw over it.

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
        """Font size of the labels in pixels of the image; a gallery shows all images at one width."""
        return self.width / 24

    @property
    def label_places(self) -> dict[int, tuple[float, float]]:
        """Return where the label of each mark that has one begins: x and baseline, by the index of the mark.

        The boxes of marks without labels, such as found objects, count as background.
        """
        labelled = [index for index, mark in enumerate(self.marks) if mark.label][::-1]  # the last ones are on top
        boxes = np.array([self.marks[index].box for index in labelled], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        texts = [len(self.marks[index].label) for index in labelled]
        sizes = [(LETTER * self.label_size * letters, LINE * self.label_size) for letters in texts]
        line = self.width / EDGES
        places = place_labels(boxes, np.array(sizes), (self.width, self.height), line)
        return {index: (x, y + BASELINE * self.label_size) for index, (x, y) in zip(labelled, places, strict=True)}


@dataclass(frozen=True)
class GalleryItem:
    """An entry of a gallery: one image, or several side by side, with a caption."""

    images: Sequence[PageImage]
    title: str
    text: str = ""


@dataclass(frozen=True)
class Gallery:
    """A grid of images with captions in a report.

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
    """Legend of drawn label maps: class names with their colours (red, green, blue in 0..255)."""

    kind: ClassVar = "colours"
    entries: Sequence[tuple[str, tuple[int, int, int]]]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text in a report. If `warning` is true, tools/report.py also prints it."""

    kind: ClassVar = "paragraph"
    text: str
    warning: bool = False


@dataclass(frozen=True)
class SideBySide:
    """Blocks that are shown side by side if the screen is wide enough.

    Attributes:
        tables: whether the blocks are tables. Tables get the width that they need, other blocks get equal widths.
    """

    kind: ClassVar = "side"
    blocks: Sequence[Block]
    tables: bool = False


@dataclass(frozen=True)
class FoldedBlocks:
    """Blocks under a title that are hidden until the reader clicks on it."""

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
        """HTML id of the chapter, made from its title, for links within the page."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


@dataclass(frozen=True)
class ReportPage:
    """Content of a report page: title, facts at the top, chapters and footer.

    Attributes:
        lead: sentence below the title.
        facts: names and values at the top, such as the headline metrics.
        subject: text that identifies the runs. A page on another subject is not overwritten.
        footer: sentence at the end.
        runs: legend with the name and colour of each run, if there are several.
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    subject: str
    footer: str = ""
    runs: Sequence[LegendEntry] = ()

    def warnings(self) -> list[str]:
        """Return the texts of all warnings that stand directly in a chapter."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [block.text for block in blocks if isinstance(block, Paragraph) and block.warning]
