"""Comparison of exported classifiers and segmentation models with `load(run)(image)`, on images of several shapes.

A program that runs a file prepares the image before and reads the answer after. These steps are made here as the
metadata of the file describes them, and the answers are compared with those of the loaded run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.errors import UserError
from classification.trained import TrainedClassifier, read_pixels
from segmentation.predict import resized
from segmentation.trained import TrainedSegmenter
from tools.exports.detections import various_shapes
from tools.exports.exportable import TOLERANCE, FileCheck, Inputs, Runner

Accepts = Callable[[Inputs], bool]  # whether a file accepts the sizes of inputs
SMALL = (40, 24)  # height and width of the smallest image on which a file for any size is compared


class ClassifierFile:
    """The steps around an exported classifier.

    Args:
        loaded: the classifier, on the CPU in fp32.
    """

    def __init__(self, loaded: TrainedClassifier) -> None:
        self.loaded = loaded
        loaded.top = len(loaded.classes)

    def inputs(self, image: Path | Tensor) -> list[Inputs]:
        """Return the inputs of each view of an image file, or of an image `[C, H, W]`."""
        views = self.loaded.read(image)
        return [(self.loaded.model.backbone.normalise(view[None]).contiguous(),) for view in views]

    def check(self, run: Runner, paths: list[Path], where: str, accepts: Accepts) -> FileCheck:
        """Compare the probabilities of the file with `classification.load(run)(image)`, averaged over the same views.

        Raises:
            UserError: they differ by more than rounding.
        """
        channels, bits = self.loaded.model.backbone.in_channels, self.loaded.trained.bits
        pixels = [torch.from_numpy(read_pixels(path, in_channels=channels, bits=bits)).movedim(-1, 0) for path in paths]
        found = _Found(where)
        for image in various_shapes(pixels):
            views = self.inputs(image)
            if not all(map(accepts, views)):
                found.left_out += 1
                continue
            own = torch.cat([self.loaded.model.probabilities(run(view)[0]) for view in views]).mean(0)
            ranking = self.loaded(image)  # of all classes; of a multi-label classifier, of those that it finds
            whole = self.loaded.probabilities([self.loaded.read(image)])[0]
            gaps = torch.cat([ranking.probabilities - own[ranking.labels], whole - own])
            found.add(image, float(gaps.abs().max()))
        return found.result()


class SegmenterFile:
    """The steps around an exported segmentation model.

    Args:
        loaded: the model, on the CPU in fp32, with one view of each whole image.
        raw: whether the file itself resizes and normalises images, and resizes the scores back.
    """

    def __init__(self, loaded: TrainedSegmenter, *, raw: bool = False) -> None:
        self.loaded, self.raw, self.min_size = loaded, raw, loaded.predictor.min_size

    def inputs(self, image: Path | Tensor) -> Inputs:
        """Resize an image file, or an image `[C, H, W]`, as the predictor does; normalise it."""
        pixels = self.loaded.read(image)[None]
        size = self._size(pixels)
        if size != tuple(pixels.shape[-2:]):
            pixels = resized(pixels, size)
        return (self.loaded.model.backbone.normalise(pixels).contiguous(),)

    def check(self, run: Runner, paths: list[Path], where: str, accepts: Accepts) -> FileCheck:
        """Compare the label maps of the file with `segmentation.load(run)(image)`.

        Where they differ, the two classes must have the same score but for rounding.

        Raises:
            UserError: they differ by more than rounding.
        """
        if self.raw:
            return self._check_raw(run, [self.loaded.read(path) for path in paths], where)
        found, same, total = _Found(where), 0, 0
        for image in self._fitting([self.loaded.read(path) for path in paths], accepts):
            inputs = self.inputs(image)
            if not accepts(inputs):
                found.left_out += 1
                continue
            scores = _at_size(run(inputs)[0], image)
            expected, own = self.loaded(image).labels.long(), scores.argmax(0)
            found.add(image, _lead(scores, expected))
            same, total = same + int((expected == own).sum()), total + own.numel()
        return found.result({"label maps": _agreement(same, total)})

    def _check_raw(self, run: Runner, images: Sequence[Tensor], where: str) -> FileCheck:
        """Compare scores and label maps with PyTorch's, on images of several shapes, a small one and a batch of two.

        `segmentation.load(run)(image)` rounds resized images to bytes, and the file does not. So the label maps of
        resized images are counted only; the scores are compared with those of images that are resized as in the file.
        """
        found, same, total = _Found(where), 0, 0
        small = images[0][:, : SMALL[0], : SMALL[1]]
        for number, image in enumerate([*various_shapes(images), small]):
            batch = torch.stack([image] if number else [image, image.flip(-1)])
            scores, labels = run((batch.movedim(1, -1).contiguous(),))
            expected, seen = self._scores(batch), self.loaded(image).labels
            found.add(image, float((scores - expected).abs().max() / expected.abs().max().clamp(min=1)))
            found.add(image, max(_lead(own, chosen.long()) for own, chosen in zip(scores, labels, strict=True)))
            if self._size(batch) == tuple(image.shape[-2:]):
                found.add(image, _lead(scores[0], seen.long()))
            same, total = same + int((seen == labels[0]).sum()), total + seen.numel()
        return found.result({"label maps": _agreement(same, total)})

    @torch.inference_mode()
    def _scores(self, images: Tensor) -> Tensor:
        """Return PyTorch's scores of a batch of bytes `[N, C, H, W]`, which is not rounded after resizing."""
        backbone, size = self.loaded.model.backbone, self._size(images)
        pixels = images.float()
        if size != tuple(images.shape[-2:]):
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (pixels.new_tensor(each)[:, None, None] for each in (backbone.mean, backbone.std))
        scores = self.loaded.model((pixels / 255 - mean) / std)["out"]
        if size == tuple(images.shape[-2:]):
            return scores
        return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)

    def _size(self, images: Tensor) -> tuple[int, int]:
        """Return height and width to which the predictor resizes images `[N, C, H, W]`."""
        height, width = images.shape[-2:]
        factor = self.min_size / min(height, width) if self.min_size else 1
        return max(1, round(height * factor)), max(1, round(width * factor))

    def _fitting(self, images: Sequence[Tensor], accepts: Accepts) -> Iterator[Tensor]:
        """Yield the images in several shapes, cut to multiples of 32 pixels if the file needs them."""
        for image in various_shapes(images):
            height, width = (max(side // 32 * 32, 1) for side in image.shape[-2:])
            yield image if accepts(self.inputs(image)) else image[:, :height, :width]


def _lead(scores: Tensor, chosen: Tensor) -> float:
    """Return by how much the highest score of a pixel exceeds that of its chosen class, at most.

    Args:
        scores: `[K, H, W]`.
        chosen: class numbers `[H, W]`.

    Returns:
        The largest lead, as a fraction of the largest score.
    """
    gaps = scores.max(0).values - scores.gather(0, chosen[None])[0]
    return float(gaps.max() / scores.abs().max().clamp(min=1))


def _agreement(same: int, total: int) -> str:
    return f"{same / max(total, 1):.4%} of {total:,} pixels have the same class"


class _Found:
    """Largest difference, and the shapes of the images, of a comparison."""

    def __init__(self, where: str) -> None:
        self.where, self.largest, self.left_out = where, 0.0, 0
        self.shapes: dict[str, None] = {}

    def add(self, image: Tensor, difference: float) -> None:
        size = f"{image.shape[-1]}x{image.shape[-2]}"
        if not difference <= 2 * TOLERANCE:  # of two values; written this way because NaN must be refused too
            raise UserError(
                f"{self.where}: differs from the loaded run by {difference:.1e} on an image of {size} pixels; export "
                "another format or model, because no file was kept"
            )
        self.largest = max(self.largest, difference)
        self.shapes[size] = None

    def result(self, more: dict[str, str] | None = None) -> FileCheck:
        left_out = f"; {self.left_out} left out, whose sizes the file does not accept" if self.left_out else ""
        shapes = ", ".join(self.shapes) or "none"
        return FileCheck(self.largest, {"images": f"{shapes}{left_out}", **(more or {} if self.shapes else {})})


def _at_size(scores: Tensor, image: Tensor) -> Tensor:
    """Resize scores `[1, K, h, w]` to the size of an image; return `[K, H, W]`."""
    size = image.shape[-2:]
    if scores.shape[-2:] != size:
        scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    return scores[0]
