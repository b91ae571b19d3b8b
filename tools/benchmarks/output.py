"""What a benchmark leaves behind: `results.json`, `table.md` and `chart.png`."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.common.files import write_json, write_text
from backbones.errors import UserError

ABSENT = "-"


@dataclass
class Table:
    """Rows under a title; a cell that is None was not measured."""

    title: str
    columns: Sequence[str]
    rows: list[list[str | None]] = field(default_factory=list)

    def markdown(self) -> str:
        """A Markdown table, its columns aligned for readers of the text itself."""
        cells = [list(self.columns), *([cell or ABSENT for cell in row] for row in self.rows)]
        widths = [max(len(row[at]) for row in cells) for at in range(len(self.columns))]
        lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
        lines.insert(1, " | ".join("-" * width for width in widths))
        return f"### {self.title}\n\n" + "\n".join(f"| {line} |" for line in lines)


@dataclass
class Chart:
    """Ratios as bars: one group of bars for each name, one bar in it for each label; None leaves a gap."""

    title: str
    names: Sequence[str]
    bars: dict[str, list[float | None]]
    axis: str = "times as fast as the peer"


@dataclass
class Report:
    """All that was measured so far.

    Attributes:
        results: JSON values, raw figures included.
        notes: sentences above the tables.
        charts: only those with something to show.
    """

    results: dict[str, Any]
    notes: Sequence[str]
    tables: Sequence[Table]
    charts: Sequence[Chart]


def write(folder: Path, header: dict[str, Any], report: Report, *, complete: bool) -> str:
    """Write the JSON and the table, each under a temporary name first; with the last report the chart as well.

    Returns:
        The text of `table.md`.
    """
    write_json(folder / "results.json", {**header, "complete": complete, **report.results})
    parts = [_facts(header), *report.notes, *(table.markdown() for table in report.tables)]
    text = "\n\n".join(parts if complete else [*parts, "Not complete: the measuring was stopped."])
    write_text(folder / "table.md", text + "\n")
    if complete and report.charts:
        write_chart(folder / "chart.png", report.charts)
    return text


def write_chart(path: Path, charts: Sequence[Chart]) -> None:
    """Draw the charts one below the other, with a line at 1.0 where both are equally fast.

    Raises:
        UserError: where the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    longest = max(len(chart.names) for chart in charts)
    figure = Figure(figsize=(max(6, 2 + 0.9 * longest), 3.4 * len(charts)), layout="constrained")
    panels = figure.subplots(len(charts), 1, squeeze=False)[:, 0]
    for panel, chart in zip(panels, charts, strict=True):
        _draw(panel, chart)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(image.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def _draw(panel: Any, chart: Chart) -> None:
    width = 0.8 / len(chart.bars)
    for number, (label, values) in enumerate(chart.bars.items()):
        places = [at + (number - (len(chart.bars) - 1) / 2) * width for at in range(len(values))]
        heights = [value or 0 for value in values]
        panel.bar(places, heights, width * 0.92, label=label)
        for place, value in zip(places, values, strict=True):
            _write_at_foot(panel, place, f"{value:.2f}" if value else "")
    panel.axhline(1.0, color="black", linewidth=1)
    panel.set_xticks(range(len(chart.names)), chart.names, rotation=20, ha="right", fontsize=8)
    panel.set_xlim(-0.6, len(chart.names) - 0.4)
    panel.set_ylabel(chart.axis)
    panel.set_title(chart.title, fontsize=10)
    panel.margins(y=0.12)
    panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _write_at_foot(panel: Any, place: float, text: str) -> None:
    """Inside the bar and below the line at 1.0, which would strike the figure out."""
    style: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "bottom", "color": "white", "fontsize": 7}
    panel.annotate(text, (place, 0), xytext=(0, 3), textcoords="offset points", **style)


def _facts(header: dict[str, Any]) -> str:
    """The header in words."""
    machine = f"{header['cpu']}, {header['cores']} cores ({', '.join(header['flags'])})"
    rates = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in header["matmul_gflops"].items())
    lines = {
        "command": f"`{header['command']}`",
        "date": header["date"],
        "machine": f"{machine}, GPU {header['gpu']}" if header["gpu"] else machine,
        "threads": header["threads"],
        "versions": ", ".join(f"{name} {number}" for name, number in header["versions"].items()),
        "floor": f"matrix products {rates}; copying {header['copy_gbytes']:.1f} GB/s read and written",
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())
