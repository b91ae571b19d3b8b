"""Report of which entries of a weights file were loaded into a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LoadReport:
    """Names of the entries that were loaded into a model, and of the rest. `num_batches_tracked` is left out.

    Attributes:
        source: a description of the weights, such as a path or "torchvision resnet50 imagenet".
        matched: entries of the model that were loaded.
        missing: entries of the model that the file does not have.
        unexpected: entries of the file that the model does not have, such as those of stages that were left out.
        reshaped: entries of `matched` that were adapted to another number of input channels.
        ignored: entries of the file's classifier, if the model has no classifier or one of another size.
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
            parts += [_count(kind, getattr(self, kind))]
        return f"{self.source}: {', '.join(parts)}"

    def with_head(self, loaded: bool) -> LoadReport:
        """Return the report of a classifier on this backbone.

        Args:
            loaded: whether fc.weight and fc.bias were loaded from the same file.
        """
        fc = ("fc.bias", "fc.weight")
        if not loaded:
            return replace(self, missing=self.missing + fc)
        return replace(
            self,
            matched=self.matched + fc,
            unexpected=tuple(k for k in self.unexpected if k not in fc),
            ignored=tuple(k for k in self.ignored if not k.endswith((*fc, "linear.bias", "linear.weight"))),
        )


def _count(kind: str, names: Sequence[str]) -> str:
    """Return the number of entries and the first three names."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")
