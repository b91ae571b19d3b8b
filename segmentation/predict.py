"""Predicts label maps for images of any size: whole or in tiles, at several scales, with mirror images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.common.channels_last import stack_images
from backbones.common.images import tile_starts
from backbones.errors import UserError
from backbones.fold import Folds
from segmentation.data.dataset import WholeTargets
from segmentation.fcn import FCN


class Predictor(nn.Module):
    """Predicts label maps with a segmentation model.

    Args:
        model: `model(images)` returns `out` `[N, K, H, W]` at the images' size.
        min_size: shorter side in pixels to which images are resized for the model; 0 does not resize images and is
            required for tiles.
        tile: side in pixels of the square tiles into which larger images are cut; 0 keeps every image whole. With
            tiles, memory is bounded by a tile and one row of tiles, not by the image.
        overlap: fraction of a tile that its neighbour repeats, 0..1; scores are added up there.
        scales: factors by which an image, or each tile of it, is resized; probabilities are averaged.
        flip: average over mirror images as well.

    Raises:
        UserError: the options are out of range or exclude each other.
    """

    def __init__(
        self,
        model: FCN,
        *,
        min_size: int = 0,
        tile: int = 0,
        overlap: float = 0.25,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        super().__init__()
        scales = tuple(scales)
        if tile and min_size:
            raise UserError(
                f"tile {tile} and min_size {min_size}: cannot be combined, because tiles are cut from images that are "
                "not resized; set one of them to 0"
            )
        if not 0 <= overlap < 1 or not scales or min(scales) <= 0 or min_size < 0 or tile < 0:
            raise UserError(
                f"min_size {min_size}, tile {tile}, overlap {overlap}, scales {scales}: expected min_size and tile "
                "of 0 or above, 0 <= overlap < 1, and scales above 0"
            )
        self.model, self.min_size, self.tile, self.overlap = model, min_size, tile, overlap
        self.scales, self.flip = scales, flip

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor] | Tensor) -> list[Tensor]:
        """Predict a label map `[H, W]` uint8 for each image `[C, H, W]`.

        Consecutive images of equal size and type form a batch.

        Args:
            images: uint8, or floating and normalised with the backbone's mean and std; of any sizes.
        """
        found: list[Tensor] = []
        with Folds():
            for _, group in groupby(images, key=lambda image: (image.shape, image.dtype)):
                found += self._labels(stack_images(list(group)))
        return found

    @torch.no_grad()
    def predict_with_losses(
        self, images: Sequence[Tensor], targets: WholeTargets
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Predict as `forward` does and compute the training losses, in one pass over whole images.

        Tiles, further scales and mirror images are not used.

        Args:
            targets: `mask`, class numbers `[H, W]` of each image.
        """
        found: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        with Folds():
            for _, group in groupby(
                zip(images, targets["mask"], strict=True), key=lambda pair: (pair[0].shape, pair[0].dtype)
            ):
                pixels, masks = zip(*group, strict=True)
                scores = self._scores(stack_images(pixels), self.scales[0])
                found += list(scores.argmax(1).to(torch.uint8))
                # Weight each batch's mean loss by its images.
                for name, loss in self.model.losses({"out": scores}, torch.stack(masks)).items():
                    sums[name] = sums.get(name, 0) + loss * len(pixels)
        return found, {name: total / len(images) for name, total in sums.items()}

    def probabilities(self, images: Tensor) -> Tensor:
        """Map images `[N, C, H, W]` to probabilities `[N, K, H, W]`, averaged over scales and mirror images.

        With one scale and no mirror images, return the scores before softmax instead: the largest class is the same.
        """
        if len(self.scales) == 1 and not self.flip:
            return self._scores(images, self.scales[0])
        views = [(scale, mirrored) for scale in self.scales for mirrored in (False, True)[: 1 + self.flip]]
        return reduce(torch.add, (self._view(images, scale, mirrored) for scale, mirrored in views)) / len(views)

    def _view(self, images: Tensor, scale: float, mirrored: bool) -> Tensor:
        """Return the probabilities `[N, K, H, W]` of one view of the images."""
        if not mirrored:
            return self._scores(images, scale).float().softmax(1)
        return self._scores(images.flip(-1), scale).float().softmax(1).flip(-1)

    def _scores(self, images: Tensor, scale: float) -> Tensor:
        """Resize images by `scale`, compute scores with the model, and resize the scores to the images' own size."""
        height, width = images.shape[-2:]
        factor = scale * (self.min_size / min(height, width) if self.min_size else 1)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        if size == (height, width):
            return self.model(images)["out"]
        scores = self.model(resized(images, size))["out"]
        return F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)

    def _labels(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        if not self.tile or max(height, width) <= self.tile:
            return list(self.probabilities(images).argmax(1).to(torch.uint8))
        return [torch.cat(list(self._bands(image[None]))) for image in images]

    def _bands(self, image: Tensor) -> Iterator[Tensor]:
        """Predict an image `[1, C, H, W]` tile by tile and yield its label map in horizontal bands `[h, W]`.

        Only the scores of one row of tiles are in memory. Overlapping tiles add up their scores; dividing the sums by
        the number of tiles would not change the largest class.
        """
        tops, lefts = (tile_starts(length, self.tile, self.overlap) for length in image.shape[-2:])
        held: Tensor | None = None
        for top, following in zip(tops, [*tops[1:], image.shape[-2]], strict=True):
            scores = self._row(image[..., top : top + self.tile, :], lefts)
            # Add the scores of the row above where it overlaps.
            if held is not None:
                scores[:, : held.shape[1]] += held
            # No later row reaches the pixels above the next row's top: they are done.
            done = following - top
            yield scores[:, :done].argmax(0).to(torch.uint8)
            held = scores[:, done:]

    def _row(self, image: Tensor, lefts: Sequence[int]) -> Tensor:
        """Return the sum of the scores `[K, h, W]` over the tiles of one row, an image `[1, C, h, W]`."""
        total: Tensor | None = None
        for left in lefts:
            part = self.probabilities(image[..., left : left + self.tile])[0].float()
            if total is None:
                total = part.new_zeros(*part.shape[:2], image.shape[-1])
            total[..., left : left + part.shape[-1]] += part
        assert total is not None
        return total


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images `[N, C, H, W]` to size (height, width) with antialiasing. uint8 images stay uint8."""
    from torchvision.transforms.v2 import functional as V  # slow to import, and not needed at the images' own size

    return V.resize(images, list(size), antialias=True)
