"""Settings of a benchmark: precision and memory format in which each library computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backbones.common.precision import precision_dtype
from tools.benchmarks.machine import device

OURS, TORCHVISION, TIMM = "ours", "torchvision", "timm"


@dataclass(frozen=True)
class Way:
    """Setting in which a model computes: precision ("fp32", or "bf16" by autocast) and memory format."""

    precision: str
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision}, {'channels_last' if self.channels_last else 'contiguous'}"


@dataclass(frozen=True)
class Setting:
    """Precision and memory format of our model and of the other libraries' models, which are then compared."""

    name: str
    ours: Way
    peers: Way

    def way(self, library: str) -> Way:
        """Return the precision and memory format in which the model of a library computes."""
        return self.ours if library == OURS else self.peers

    def title(self) -> str:
        """Return the setting in words, for the titles of tables."""
        if self.ours == self.peers:
            return f"equal settings ({self.ours})"
        return f"stock (ours {self.ours}; peers {self.peers})"


def settings(precision: str) -> list[Setting]:
    """Return the settings to compare for a value of `--precision`: equal ones, and each library's defaults."""
    auto = "bf16" if precision_dtype("auto", device()).itemsize == 2 else "fp32"
    equal = ["bf16", "fp32"] if precision == "both" else [auto if precision == "auto" else precision]
    found = [Setting(f"equal {name}", Way(name, True), Way(name, True)) for name in equal]
    return [*found, Setting("stock", Way(auto, True), Way("fp32", False))]


def precisions(compared: Sequence[Setting]) -> list[str]:
    """Return the precisions that occur in the settings; the machine's speed is measured in each."""
    return sorted({way.precision for setting in compared for way in (setting.ours, setting.peers)})
