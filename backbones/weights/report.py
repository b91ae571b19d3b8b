"""TODO-DOC backbones/weights/report.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LoadReport:
    """What a set of weights gave to a net, by names of entries (num_batches_tracked aside).

    Attributes:
        source: where the weights are from.
        matched: entries of the net that were filled.
        missing: entries of the net that the file does not have.
        unexpected: entries of the file that the net does not have (stages left out, say).
        reshaped: those of `matched` that were adapted to another number of input channels.
        ignored: the file's classifier, where the net has none or one of another size.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"matched {len(self.matched)} of {len(self.matched) + len(self.missing)} entries"]
        for kind in ("missing", "unexpected", "reshaped", "ignored"):
            parts += [_figure(kind, getattr(self, kind))]
        return f"{self.source}: {', '.join(parts)}"

    def with_head(self, loaded: bool) -> LoadReport:
        """The report of a classification net: its fc.weight and fc.bias were loaded, or not."""
        fc = ("fc.bias", "fc.weight")
        if not loaded:
            return replace(self, missing=self.missing + fc)
        return replace(
            self,
            matched=self.matched + fc,
            unexpected=tuple(k for k in self.unexpected if k not in fc),
            ignored=tuple(k for k in self.ignored if not k.endswith((*fc, "linear.bias", "linear.weight"))),
        )


def _figure(kind: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")
