"""Comparison of the detections of an exported file with those of PyTorch.

Detections are compared as sets, because rounding may swap equal scores. Where two boxes have nearly the same score, or
overlap by nearly the threshold of suppression, rounding also decides which of them is kept. Such detections are found
by adding noise to the image: a detection that comes and goes with noise far below a grey level is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from backbones.errors import UserError
from detection.results import Detections
from tools.exports.exportable import TOLERANCE, FileCheck

# Std of the noise, in 0..1: a 40th of a grey level, and some 100 times the rounding of the first layer's sums.
NOISE = 1e-4
NOISY_COPIES = 8  # a tie falls the same way in all of them once in 2^7 = 128 times
Detector = Callable[[Tensor], Detections]


def compare_detections(loaded: Detector, found: Detector, images: Sequence[Tensor], *, where: str) -> FileCheck:
    """Compare a file's detections with `loaded(image)` on images.

    Args:
        loaded: computes PyTorch's detections of an image `[3, H, W]`.
        found: computes the file's detections of an image `[3, H, W]`.
        where: name of the file in error messages.

    Raises:
        UserError: the detections differ by more than rounding, or rounding decides all of them.
    """
    compared = left_out = 0
    largest = 0.0
    shapes: list[str] = []
    for image in images:
        expected, own = loaded(image), found(image)
        difference = set_difference(expected, own, image)
        total = len(expected)
        if not difference <= TOLERANCE:  # written this way because NaN must be refused too
            # Leave out what noise moves, on both sides.
            copies = [loaded(copy) for copy in noisy_copies(image)]
            expected, own = _stable(expected, copies, image), _not_noise(own, expected, copies, image)
            difference = set_difference(expected, own, image)
        if not difference <= TOLERANCE:
            size = f"{image.shape[-1]}x{image.shape[-2]}"
            raise UserError(
                f"{where}: its detections differ from PyTorch by {difference:.1e} (scores, or boxes as a fraction of "
                f"the image's side) on an image of {size} pixels; no file was kept; export another model"
            )
        compared, left_out = compared + len(expected), left_out + total - len(expected)
        largest, shapes = max(largest, difference), [*shapes, f"{image.shape[-1]}x{image.shape[-2]}"]
    if left_out and not compared:
        raise UserError(
            f"{where}: rounding decides all {left_out} detections, so they cannot be compared with PyTorch; train "
            "the model further, or name other images with --images"
        )
    text = f"{compared} compared" + (f", {left_out} left out because rounding decides them" if left_out else "")
    return FileCheck(largest, {"shapes": ", ".join(dict.fromkeys(shapes)), "detections": text})


def various_shapes(images: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the images `[3, H, W]` in turn as they are, turned by 90 degrees, and cut to the upper two thirds."""
    for index, image in enumerate(images):
        if index % 3 == 0:
            yield image
        else:
            yield image.rot90(1, (-2, -1)) if index % 3 == 1 else image[:, : -(-2 * image.shape[-2] // 3)]


def six_shapes(images: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield images `[3, H, W]` of at least six shapes: as they are, turned, and cut in four ways, in turn."""
    for index in range(max(len(images), 6)):
        image = images[index % len(images)]
        height, width = image.shape[-2:]
        turned = image.rot90(1, (-2, -1))
        cuts = (image[:, : -(-2 * height // 3)], image[..., : -(-2 * width // 3)])
        forms = (image, turned, *cuts, turned[:, : -(-3 * width // 4)], image[:, : -(-height // 2), : -(-width // 2)])
        yield forms[index % 6]


def noisy_copies(image: Tensor) -> Iterator[Tensor]:
    """Yield copies of an image, as floats in 0..1 with noise that is too weak to change what it shows."""
    random = torch.Generator().manual_seed(0)
    plain = image / 255 if image.dtype == torch.uint8 else image
    for _ in range(NOISY_COPIES):
        # Black and white pixels must stay in 0..1, which `load` demands.
        yield (plain + NOISE * torch.randn(plain.shape, generator=random)).clamp(0, 1)


def set_difference(first: Detections, second: Detections, image: Tensor) -> float:
    """Return the largest distance of a detection of either set from the nearest one of the other set.

    0 for two empty sets; infinite if one set has a detection of a class that the other set lacks.
    """
    distances = _distances(first, second, image)
    nearest = torch.cat([_nearest(distances), _nearest(distances.T)])
    return float(nearest.max()) if len(nearest) else 0.0


def _stable(found: Detections, copies: Sequence[Detections], image: Tensor) -> Detections:
    """Return the detections that every noisy copy of the image has too."""
    near = [_nearest(_distances(found, copy, image)) <= 10 * TOLERANCE for copy in copies]
    return found.where(torch.stack(near).all(0))


def _not_noise(found: Detections, expected: Detections, copies: Sequence[Detections], image: Tensor) -> Detections:
    """Return the detections that PyTorch finds in the image, or in none of its noisy copies."""
    near = [_nearest(_distances(found, copy, image)) <= 10 * TOLERANCE for copy in copies]
    return found.where((_nearest(_distances(found, expected, image)) <= TOLERANCE) | ~torch.stack(near).any(0))


def _nearest(distances: Tensor) -> Tensor:
    """Return the smallest value of each row `[N, M]`; infinite if there is none."""
    return torch.nn.functional.pad(distances, (0, 1), value=torch.inf).min(1).values


def _distances(first: Detections, second: Detections, image: Tensor) -> Tensor:
    """Return the distances `[N, M]`: of the scores or of the boxes, whichever is larger; infinite between classes.

    Boxes differ by their farthest edges, as a fraction of the image's longer side.
    """
    scores = (first.scores[:, None] - second.scores).abs()
    boxes = (first.boxes[:, None] - second.boxes).abs().amax(-1) / max(image.shape[-2:])
    return torch.maximum(scores, boxes).masked_fill(first.labels[:, None] != second.labels, torch.inf)
