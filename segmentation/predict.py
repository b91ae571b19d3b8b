"""From images of any size to label maps of the same size: whole, in windows, at several scales, mirrored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.common.images import window_starts
from backbones.errors import UserError
from backbones.fold import Folds

if TYPE_CHECKING:
    from segmentation.fcn import FCN


class Predictor(nn.Module):
    """Label maps by a segmentation net.

    Args:
        model: `model(images)` gives `out` `[N, K, H, W]` at the images' size.
        min_size: pixels of the short side that images are resized to before the net; 0 leaves them as they are, which
            windows ask for.
        window: side in pixels of the squares that larger images are cut into; 0 takes every image whole. Memory is then
            bounded by the window and one row of windows, not by the image.
        overlap: share of a window that its neighbour repeats, 0..1; scores are added up there.
        scales: factors at which an image, or each window of it, is seen; probabilities are averaged.
        flip: see the mirror images as well.
    """

    def __init__(
        self,
        model: FCN,
        *,
        min_size: int = 0,
        window: int = 0,
        overlap: float = 0.25,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        super().__init__()
        if window and min_size:
            raise UserError(
                f"window {window} and min_size {min_size}: windows are cut of images at their own size; take one"
            )
        if not 0 <= overlap < 1 or not scales or min(scales) <= 0 or min_size < 0 or window < 0:
            raise UserError(f"overlap {overlap}, scales {scales}: expected 0 <= overlap < 1 and scales above 0")
        self.model, self.min_size, self.window, self.overlap = model, min_size, window, overlap
        self.scales, self.flip = tuple(scales), flip

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor] | Tensor) -> list[Tensor]:
        """Images `[C, H, W]`, uint8 or normalised floats, of any sizes -> a label map `[H, W]` uint8 each.

        Neighbours of one size go through the net together.
        """
        found: list[Tensor] = []
        with Folds():
            for _, group in groupby(images, key=lambda image: image.shape):
                found += self._labels(torch.stack(list(group)))
        return found

    @torch.no_grad()
    def predict_with_losses(
        self, images: Sequence[Tensor], targets: dict[str, Any]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What `forward` gives, and the training losses at the images' own size; of whole images seen once, unmirrored.

        Args:
            targets: `mask`, class numbers `[H, W]` for each image.
        """
        found: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        with Folds():
            for _, group in groupby(zip(images, targets["mask"], strict=True), key=lambda pair: pair[0].shape):
                pixels, mask = (torch.stack(part) for part in zip(*group, strict=True))
                scores = self._scores(pixels, self.scales[0])
                found += list(scores.argmax(1).to(torch.uint8))
                for name, loss in self.model.losses({"out": scores}, mask).items():
                    sums[name] = sums.get(name, 0) + loss * len(pixels)
        return found, {name: total / len(images) for name, total in sums.items()}

    def _labels(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        if not self.window or max(height, width) <= self.window:
            return list(self.probabilities(images).argmax(1).to(torch.uint8))
        return [torch.cat(list(self._bands(image[None]))) for image in images]

    def probabilities(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` -> `[N, K, H, W]`, averaged over scales and mirror images; of one view, its bare scores."""
        if len(self.scales) == 1 and not self.flip:
            return self._scores(images, self.scales[0])
        views = [(scale, mirrored) for scale in self.scales for mirrored in (False, True)[: 1 + self.flip]]
        total: Tensor | int = 0
        for scale, mirrored in views:
            scores = self._scores(images.flip(-1) if mirrored else images, scale).float().softmax(1)
            total = total + (scores.flip(-1) if mirrored else scores)
        assert isinstance(total, Tensor)
        return total / len(views)

    def _scores(self, images: Tensor, scale: float) -> Tensor:
        """Scores at the images' own size from a look at another."""
        height, width = images.shape[-2:]
        factor = scale * (self.min_size / min(height, width) if self.min_size else 1)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        if size == (height, width):
            return self.model(images)["out"]
        return _resized(self.model(resized(images, size))["out"], (height, width))

    def _bands(self, image: Tensor) -> Iterator[Tensor]:
        """Label maps `[h, W]` of an image `[1, C, H, W]` from top to bottom.

        Scores are held for one row of windows: pixels that no later window reaches are done. They are sums, not
        means: the largest class is the same.
        """
        tops, lefts = (window_starts(length, self.window, self.overlap) for length in image.shape[-2:])
        held: Tensor | None = None
        for top, following in zip(tops, [*tops[1:], image.shape[-2]], strict=True):
            scores = self._row(image[..., top : top + self.window, :], lefts)
            if held is not None:
                scores[:, : held.shape[1]] += held
            done = following - top
            yield scores[:, :done].argmax(0).to(torch.uint8)
            held = scores[:, done:]

    def _row(self, image: Tensor, lefts: Sequence[int]) -> Tensor:
        """Summed scores `[K, h, W]` of the windows that stand side by side in an image `[1, C, h, W]`."""
        total: Tensor | None = None
        for left in lefts:
            part = self.probabilities(image[..., left : left + self.window])[0].float()
            if total is None:
                total = part.new_zeros(*part.shape[:2], image.shape[-1])
            total[..., left : left + part.shape[-1]] += part
        assert total is not None
        return total


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images `[N, C, H, W]` at another (height, width), antialiased; bytes stay bytes."""
    from torchvision.transforms.v2 import functional as V

    return V.resize(images, list(size), antialias=True)


def _resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
