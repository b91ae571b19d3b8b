"""Comparisons of nets: the ways in which ours and the peers' compute, and figures from their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tools.benchmarks.options import Timing

if TYPE_CHECKING:
    from tools.benchmarks.output import Chart
    from tools.benchmarks.rounds import Contestant, Step

OURS = "ours"
MODES = {"train": "Training", "infer": "Inference"}


@dataclass(frozen=True)
class Way:
    """How a net computes: numbers ("fp32" or "bf16" autocast) and memory format."""

    precision: str
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision}, {'channels_last' if self.channels_last else 'contiguous'}"


@dataclass(frozen=True)
class Setting:
    """A comparison: how ours computes, and how its peers do."""

    name: str
    ours: Way
    peers: Way

    def way(self, library: str) -> Way:
        return self.ours if library == OURS else self.peers

    def title(self) -> str:
        if self.ours == self.peers:
            return f"equal settings ({self.ours})"
        return f"stock (ours {self.ours}; peers {self.peers})"


class Job(Protocol):
    """Everything that makes a contestant; it can be sent to another process.

    Attributes:
        library: "ours" or a peer's.
        mode: "train" or "infer".
        batch: images per step.
    """

    @property
    def library(self) -> str: ...

    @property
    def way(self) -> Way: ...

    @property
    def mode(self) -> str: ...

    @property
    def batch(self) -> int: ...

    def prepare(self) -> Step:
        """Build net, input and optimizer; returns one training step or one prediction."""


Jobs = Mapping[tuple[str, Way], Job]


def settings(precision: str) -> list[Setting]:
    """The comparisons of a `--precision`: at equal settings, and of each library as it comes."""
    from backbones.common.precision import precision_dtype
    from tools.benchmarks.machine import device

    auto = "bf16" if precision_dtype("auto", device()).itemsize == 2 else "fp32"
    equal = ["bf16", "fp32"] if precision == "both" else [auto if precision == "auto" else precision]
    found = [Setting(f"equal {name}", Way(name, True), Way(name, True)) for name in equal]
    return [*found, Setting("stock", Way(auto, True), Way("fp32", False))]


def precisions(compared: Sequence[Setting]) -> list[str]:
    """Those to rate the machine in."""
    return sorted({way.precision for setting in compared for way in (setting.ours, setting.peers)})


def contestant(job: Job) -> Contestant:
    """A job as the measuring loop takes it."""
    from tools.benchmarks.rounds import Contestant

    return Contestant(f"{job.library}: {job.way}", job.prepare)


def measure_jobs(
    jobs: Jobs,
    compared: Sequence[Setting],
    timing: Timing,
    *,
    memory: bool,
    title: str,
    work: float,
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """Times, peak memory and figures of what is compared; a way that two settings share is measured once.

    Args:
        memory: measure peak memory as well.
        work: operations of one image.
        rates: 1e9 operations a second of the machine's matrix products, by precision.
    """
    from tools.benchmarks.peak import peak_memory
    from tools.benchmarks.rounds import measure

    entrants = [contestant(job) for job in jobs.values()]
    seconds = measure(entrants, rounds=timing.rounds, turn=timing.turn, title=title)
    threads = timing.threads or 1
    peaks = {c.name: peak_memory(c, threads=threads) if memory else None for c in entrants}
    figures = {setting.name: compare(setting, jobs, seconds, peaks, work=work, rates=rates) for setting in compared}
    return {"seconds": seconds, "peak_bytes": peaks, "settings": figures}


def compare(
    setting: Setting,
    jobs: Jobs,
    seconds: Mapping[str, Sequence[float]],
    peaks: Mapping[str, int | None],
    *,
    work: float,
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """A setting's figures from the raw ones; arguments as in `measure_jobs`."""
    from tools.benchmarks.rounds import rate, ratio

    wanted = {job.library: job for key, job in jobs.items() if key == (job.library, setting.way(job.library))}
    times = {library: seconds[contestant(job).name] for library, job in wanted.items()}
    shares = {
        library: rate(times[library], job.batch) * work / (rates[job.way.precision] * 1e9)
        for library, job in wanted.items()
    }
    return {
        "images_per_second": rate(times[OURS], wanted[OURS].batch),
        "floor_share": shares.pop(OURS),
        "peer_floor_share": shares,
        "ratio": {library: ratio(times[OURS], theirs) for library, theirs in times.items() if library != OURS},
        "peak_bytes": {library: peaks[contestant(job).name] for library, job in wanted.items()},
    }


def chart(
    rows: Sequence[Mapping[str, Any]], compared: Sequence[Setting], libraries: Sequence[str], mode: str
) -> Chart | None:
    """Ratios of the nets that have a peer; None where none has."""
    from tools.benchmarks.output import Chart

    shown = [row for row in rows if row[mode]["settings"][compared[0].name]["ratio"]]
    bars: dict[str, list[float | None]] = {
        f"{name}, {setting.name}": [row[mode]["settings"][setting.name]["ratio"].get(name) for row in shown]
        for setting in compared
        for name in libraries
    }
    bars = {label: values for label, values in bars.items() if any(values)}
    return Chart(MODES[mode], [row["net"] for row in shown], bars) if shown else None


def words(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def number(value: float | None, form: str, unit: float = 1) -> str | None:
    """A table's cell; None where there is nothing."""
    return None if value is None else form.format(value / unit)
