"""Base class of the results that trained models return: drawing, notebooks, tables, JSON."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from backbones.common.files import JsonObject
from backbones.common.images import Image, pixels_of, read_image
from backbones.common.packages import optional
from backbones.errors import UserError

if TYPE_CHECKING:
    import pandas

SHOWN = 1024  # largest side in pixels of an image in a notebook
MOST_ROWS = 20  # rows of a table in a notebook
FEW = 5  # rows that `repr` names
VALUES = ("score", "probability", "fraction")  # columns that may tell how sure or how large a result is
Self = TypeVar("Self", bound="ImageResult")
Selection = slice | Tensor | np.ndarray | Sequence[int] | Sequence[bool]


@dataclass(frozen=True)
class Source:
    """The image that a result is about, as the user gave it, and how it is decoded for drawing.

    Attributes:
        image: a path, a PIL image, an array or a tensor. A path is read again when the result is drawn.
        view: returns the pixels `[H, W, 3]` uint8 of such an image.
    """

    image: Image
    view: Callable[[Image], np.ndarray]

    @property
    def path(self) -> str | None:
        """The path of the image; None if it was no file."""
        return os.fspath(self.image) if isinstance(self.image, (str, os.PathLike)) else None


@dataclass(frozen=True, repr=False)
class ImageResult:
    """Base class of the result for one image.

    Attributes:
        source: the image; None for results of `predict`, which gets images that are already prepared.
    """

    source: Source | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return a line with the image and the first names and scores, in place of tensors."""
        rows = self.rows()
        value = next((name for name in VALUES if name in self.columns()), "")
        parts = [f"{row['name']} {row[value]:.2f}" for row in rows[:FEW]]
        more = [f"{len(rows) - FEW} more"] if len(rows) > FEW else []
        place = f" in {self.path}" if self.path else ""
        return f"<{type(self).__name__}{place}: {', '.join(parts + more) or 'none'}>"

    def with_source(self: Self, image: Image, view: Callable[[Image], np.ndarray]) -> Self:
        """Return this result with its image."""
        return replace(self, source=Source(image, view))

    @property
    def path(self) -> str | None:
        """The path of the image; None if it was no file."""
        return self.source.path if self.source else None

    def plot(self, image: Image | None = None) -> PIL.Image.Image:
        """Draw the result on its image.

        Args:
            image: draw on this image; by default the image that the model was given.

        Raises:
            UserError: the image is unknown, or its file cannot be read any more.
        """
        return PIL.Image.fromarray(self.draw(self.pixels(image)))

    def pixels(self, image: Image | None = None) -> np.ndarray:
        """Return the pixels `[H, W, 3]` uint8 of the image, as `plot` draws on them. The errors are those of `plot`."""
        if self.source is None:
            if image is None:
                raise UserError("plot: this result has no image, because it comes from `predict`; pass plot(image)")
            return shown(image, partial(pixels_of, read=partial(read_image, fix="replace it"), apply_exif=True))
        return self.source.view(self.source.image if image is None else image)

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        """Draw the result on pixels `[H, W, 3]` uint8; return another array."""
        raise NotImplementedError

    def rows(self) -> list[JsonObject]:
        """Return a dict of numbers and texts for each part of the result, such as a box."""
        raise NotImplementedError

    def to_dict(self) -> JsonObject:
        """Return the result as a dict that `json.dumps` accepts: the image's path and `rows()`."""
        return {"image": self.path, "results": self.rows()}

    def to_pandas(self) -> pandas.DataFrame:
        """Return `rows()` as a data frame, with the image's path in each row.

        Raises:
            UserError: pandas is not installed.
        """
        rows = [{"image": self.path, **row} for row in self.rows()]
        return optional("pandas", extra="results").DataFrame(rows, columns=["image", *self.columns()])

    def columns(self) -> list[str]:
        """Return the keys of `rows()`, also if there are no rows."""
        raise NotImplementedError

    def _repr_png_(self) -> bytes | None:
        """Return the drawn image as a PNG, which notebooks show; None without an image."""
        if self.source is None:
            return None
        try:
            picture = self.plot()
        except UserError:  # the file was moved since
            return None
        picture.thumbnail((SHOWN, SHOWN))
        content = io.BytesIO()
        picture.save(content, "PNG")
        return content.getvalue()

    def _repr_html_(self) -> str:
        """Return the drawn image and a table of the rows, which notebooks show."""
        png = self._repr_png_()
        shown = ""
        if png is not None:
            data = base64.b64encode(png).decode()
            shown = f'<img style="max-width:100%" alt="{html.escape(repr(self))}" src="data:image/png;base64,{data}">'
        return f"<div>{shown}{_table(self.columns(), self.rows())}</div>"


def shown(image: Image, read: Callable[[Image], Tensor]) -> np.ndarray:
    """Return an image as pixels `[H, W, 3]` uint8 for drawing.

    Args:
        image: what a model was given.
        read: returns its pixels `[C, H, W]`: uint8, floats in 0..1, or the values of bands, which are stretched.
    """
    pixels = read(image).detach().cpu().permute(1, 2, 0).numpy()
    pixels = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    if pixels.dtype != np.uint8:
        low, high = min(0.0, float(pixels.min())), max(1.0, float(pixels.max()))
        pixels = ((pixels - low) * (255 / (high - low))).round().astype(np.uint8)
    return np.ascontiguousarray(pixels)


def indices_of(selection: Selection, count: int) -> Tensor:
    """Return the indices `[M]` that a slice, a boolean mask `[count]` or a list of indices selects.

    Raises:
        IndexError: an index is out of range, or a mask has another length.
        TypeError: a text; names are selected by a mask.
    """
    if isinstance(selection, str):
        raise TypeError(f"{selection!r} is no index; results are selected by numbers, slices and masks")
    if isinstance(selection, slice):
        return torch.arange(count)[selection]
    chosen = torch.as_tensor(np.asarray(selection) if isinstance(selection, (list, tuple)) else selection)
    if chosen.dtype == torch.bool:
        if chosen.shape != (count,):
            raise IndexError(f"a mask of shape {list(chosen.shape)} for {count} results")
        return chosen.nonzero()[:, 0]
    if not chosen.numel():
        return torch.zeros(0, dtype=torch.long)
    if chosen.is_floating_point() or chosen.min() < -count or chosen.max() >= count:
        raise IndexError(f"indices {chosen.tolist()} for {count} results")
    return chosen.long() % count


def _table(columns: Sequence[str], rows: Sequence[JsonObject]) -> str:
    """Return an HTML table of at most `MOST_ROWS` rows; the last line counts the others."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_text(row.get(name)))}</td>' for name in columns)}</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(each) for each in value)
    return "" if value is None else str(value)
