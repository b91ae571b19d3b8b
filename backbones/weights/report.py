"""Reports which entries of a weights file were loaded into a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class LoadReport:
    """Lists the entries that were loaded into a model and those that were not. `num_batches_tracked` is left out.

    Attributes:
        source: a description of the weights, such as a path or "torchvision resnet50 imagenet".
        matched: entries of the model that were loaded.
        missing: entries of the model that the file does not have.
        unexpected: entries of the file that the model does not have, such as those of stages that were left out.
        reshaped: entries of `matched` that were adapted to another number of input channels.
        ignored: entries of the file's classifier, if the model has no classifier or one of another size.
        left_out: entries of the file that belong to its other encoder, or to heads, prototypes and queues of the
            pretraining; entry -> part, such as "module.encoder_k".
        prefix: what precedes the names of the model's entries in the file, such as "model.backbone.".
        moved: classes that were matched by name and have another number or id in the file.
        note: what the file does not say and the user must know.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    prefix: str = ""
    moved: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        parts = [f"matched {len(self.matched)} of {len(self.matched) + len(self.missing)} entries"]
        for kind in ("missing", "unexpected", "reshaped", "ignored"):
            parts += [_count(kind, getattr(self, kind))]
        parts += [_count("matched by name under another number", self.moved)] if self.moved else []
        if self.left_out:
            parts += [_count("left out", list(dict.fromkeys(self.left_out.values())), len(self.left_out))]
            # Name the encoder that was loaded: the file may have another.
            parts += [f"loaded from {self.prefix}*"] if self.prefix else []
        return f"{self.source}: {', '.join(parts)}" + (f"; {self.note}" if self.note else "")

    def with_head(self, names: Sequence[str] | None) -> LoadReport:
        """Return this report of a backbone, extended by the linear layer of a classifier.

        Args:
            names: entries of the file that were loaded into fc.weight and fc.bias; None if they were not loaded.
        """
        fc = ("fc.bias", "fc.weight")
        if names is None:
            return replace(self, missing=self.missing + fc)
        return replace(
            self,
            matched=self.matched + fc,
            unexpected=tuple(key for key in self.unexpected if key not in names),
            ignored=tuple(key for key in self.ignored if key not in names),
            left_out={key: part for key, part in self.left_out.items() if key not in names},
        )

    @property
    def beside(self) -> tuple[str, ...]:
        """Return the unexpected entries that are under the model's own prefix, without the prefix."""
        return tuple(key[len(self.prefix) :] for key in self.unexpected if key.startswith(self.prefix))


def _count(kind: str, names: Sequence[str], number: int | None = None) -> str:
    """Describe entries in words: their number and the first three names, of entries or of the parts that hold them."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names) if number is None else number} {kind}" + (f" ({shown})" if names else "")
