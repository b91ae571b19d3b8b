"""Writes the results of a benchmark: tables and charts, as `results.json`, `table.md` and `chart.png`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from backbones.common.files import atomic_file, write_json, write_text
from tools.benchmarks.machine import Machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ABSENT = "-"
Row = TypeVar("Row")
Columns = Mapping[str, Callable[[Row], str | None]]


@dataclass
class ResultTable:
    """A titled table of text cells. None stands for a value that was not measured."""

    title: str
    columns: Sequence[str]
    rows: list[list[str | None]] = field(default_factory=list)

    @classmethod
    def of(cls, title: str, rows: Sequence[Row], columns: Columns[Row]) -> ResultTable:
        """Make a table with one line for each entry of `rows`.

        Args:
            columns: maps each heading to a function that returns the text of a row's cell.
        """
        return cls(title, list(columns), [[cell(row) for cell in columns.values()] for row in rows])

    def markdown(self) -> str:
        """Return the table in Markdown, with columns padded to the same width."""
        cells = [list(self.columns), *([cell or ABSENT for cell in row] for row in self.rows)]
        widths = [max(len(row[at]) for row in cells) for at in range(len(self.columns))]
        lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
        lines.insert(1, " | ".join("-" * width for width in widths))
        return f"### {self.title}\n\n" + "\n".join(f"| {line} |" for line in lines)


@dataclass
class BarChart:
    """Bar chart of ratios: one group of bars for each name, and in it one bar for each label. None leaves a gap."""

    title: str
    names: Sequence[str]
    bars: Mapping[str, Sequence[float | None]]
    axis: str = "our speed / the other's"


@dataclass
class BenchmarkReport:
    """Everything that a benchmark has measured so far, as data for the files and the printed tables.

    Attributes:
        results: JSON values for `results.json`, raw times included.
        notes: sentences above the tables.
        charts: charts that have at least one bar.
    """

    results: Mapping[str, object]
    notes: Sequence[str]
    tables: Sequence[ResultTable]
    charts: Sequence[BarChart] = ()


class Benchmark(Protocol):
    """Interface of a benchmark, a sub-command of `tools/benchmark.py`. Its constructor checks the options.

    Attributes:
        precisions: precisions in which the machine's matrix products are timed.
    """

    precisions: Sequence[str]

    def run(self, machine: Machine) -> Iterator[BenchmarkReport]:
        """Measure, and after each part of the work yield a report of everything measured so far."""


def cell(value: float | None, form: str, unit: float = 1) -> str | None:
    """Return `value / unit` formatted by `form`, such as "{:.1f}", or None if `value` is None."""
    return None if value is None else form.format(value / unit)


def write(folder: Path, command: str, machine: Machine, report: BenchmarkReport, *, complete: bool) -> str:
    """Write `results.json` and `table.md`; also `chart.png` if the report is complete.

    Each file is written under a temporary name and renamed.

    Returns:
        The text of `table.md`.
    """
    write_json(folder / "results.json", {"command": command, **machine, "complete": complete, **report.results})
    parts = [_facts(command, machine), *report.notes, *(table.markdown() for table in report.tables)]
    text = "\n\n".join(parts if complete else [*parts, "Not complete: the benchmark was stopped."])
    write_text(folder / "table.md", text + "\n")
    if complete and report.charts:
        write_chart(folder / "chart.png", report.charts)
    return text


def write_chart(path: Path, charts: Sequence[BarChart]) -> None:
    """Draw the charts one below the other, each with a line at 1.0.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    longest = max(len(chart.names) for chart in charts)
    figure = Figure(figsize=(max(6, 2 + 0.9 * longest), 3.4 * len(charts)), layout="constrained")
    panels = figure.subplots(len(charts), 1, squeeze=False)[:, 0]
    for panel, chart in zip(panels, charts, strict=True):
        _draw(panel, chart)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw(panel: Axes, chart: BarChart) -> None:
    width = 0.8 / len(chart.bars)
    for number, (label, values) in enumerate(chart.bars.items()):
        # Center the bars of a group on the group's tick.
        centers = [tick + (number - (len(chart.bars) - 1) / 2) * width for tick in range(len(values))]
        panel.bar(centers, [value or 0 for value in values], width * 0.92, label=label)
        for center, value in zip(centers, values, strict=True):
            _label_bar(panel, center, f"{value:.2f}" if value else "")
    panel.axhline(1.0, color="black", linewidth=1)
    panel.set_xticks(range(len(chart.names)), chart.names, rotation=20, ha="right", fontsize=8)
    panel.set_xlim(-0.6, len(chart.names) - 0.4)
    panel.set_ylabel(chart.axis)
    panel.set_title(chart.title, fontsize=10)
    panel.margins(y=0.12)
    panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _label_bar(panel: Axes, center: float, text: str) -> None:
    """Write a value at the foot of its bar, so that the line at 1.0 does not cross the text."""
    panel.annotate(
        text,
        (center, 0),
        xytext=(0, 3),
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="bottom",
        color="white",
        fontsize=7,
    )


def _facts(command: str, machine: Machine) -> str:
    """Return a Markdown list: the command, and the machine's hardware, versions and measured speed."""
    name = f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])})"
    rates = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in machine["matmul_gflops"].items())
    lines = {
        "command": f"`{command}`",
        "date": machine["date"],
        "machine": f"{name}, GPU {machine['gpu']}" if machine["gpu"] else name,
        "threads": machine["threads"],
        "versions": ", ".join(f"{name} {number}" for name, number in machine["versions"].items()),
        "measured rates": f"matrix products {rates}; copying {machine['copy_gbytes']:.1f} GB/s read and written",
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())
