"""The classes that a classifier finds in an image: ranking or set, filters, drawing, and other libraries' forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np
from torch import Tensor

from backbones.common.files import JsonObject
from backbones.common.packages import optional
from backbones.common.results import ImageResult, Selection, indices_of
from classification.draw import draw_ranking

if TYPE_CHECKING:
    import supervision

COLUMNS = ["name", "label", "probability"]
Kind = TypeVar("Kind", bound="Ranking")
Entry = tuple[str, float]  # name and probability


@dataclass(frozen=True, repr=False)
class Ranking(ImageResult):
    """The most likely classes of an image, the most likely one first. Tensors are on the CPU.

        name, probability = found[0]
        found[found.probabilities > 0.1]    # another Ranking; also found[:2]
        found.plot().save("drawn.png")

    Attributes:
        names: class names.
        probabilities: `[K]`, 0..1.
        labels: class numbers `[K]`.
    """

    names: tuple[str, ...]
    probabilities: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(zip(self.names, self.probabilities.tolist(), strict=True)))

    @overload
    def __getitem__(self, chosen: int) -> Entry: ...

    @overload
    def __getitem__(self: Kind, chosen: Selection) -> Kind: ...

    def __getitem__(self: Kind, chosen: int | Selection) -> Entry | Kind:
        """Return name and probability for an index; for a slice, a boolean mask `[K]` or indices, another ranking.

        Raises:
            IndexError: an index is out of range, or a mask has another length.
        """
        if isinstance(chosen, (int, np.integer)):
            index = int(indices_of([int(chosen)], len(self))[0])
            return self.names[index], float(self.probabilities[index])
        kept = indices_of(chosen, len(self))
        names = tuple(self.names[index] for index in kept.tolist())
        return replace(self, names=names, probabilities=self.probabilities[kept], labels=self.labels[kept])

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        """Draw an image `[H, W, 3]` uint8 and, next to it, the probabilities as bars."""
        return draw_ranking(pixels, self.names, self.probabilities.tolist())

    def rows(self) -> list[JsonObject]:
        """Return name, number and probability of each class."""
        cells = zip(self.names, self.labels.tolist(), self.probabilities.tolist(), strict=True)
        return [dict(zip(COLUMNS, cell, strict=True)) for cell in cells]

    def columns(self) -> list[str]:
        """Return the keys of `rows()`."""
        return list(COLUMNS)

    def to_supervision(self) -> supervision.Classifications:
        """Return `supervision.Classifications`.

        Raises:
            UserError: supervision is not installed.
        """
        kind = optional("supervision", extra="results").Classifications
        return kind(class_id=self.labels.numpy().astype(int), confidence=self.probabilities.numpy().astype(np.float32))


@dataclass(frozen=True, repr=False)
class ClassSet(Ranking):
    """The classes of an image that a multi-label classifier finds, the most likely one first; there may be none.

    Attributes:
        scores: probabilities `[classes]` of all classes of the model, in their order.
    """

    scores: Tensor
