"""Detectors for export, and the steps around their files.

The exported file holds backbone, proposals, RoI heads, clipping, score threshold and suppression. Resizing,
normalising, padding and scaling boxes back to the original image are left to the program that runs it, or are in the
file as well (`tools.exports.raw_images`). Pasting masks into the image and category ids are always left to the program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection.transform import resize_boxes

import detection
from backbones.errors import UserError
from backbones.exported import as_bytes
from backbones.trained import TrainedFile
from detection.masks import THRESHOLD, encode
from detection.results import Detections, Outlines
from detection.trained import TrainedDetector
from tools.exports.detections import compare_detections, six_shapes
from tools.exports.detector_graph import DetectorGraph
from tools.exports.exportable import (
    COLOURS,
    TOLERANCE,
    Exportable,
    FileCheck,
    Inputs,
    Runner,
    common_metadata,
    prepare,
)
from tools.exports.raw_images import raw_pipeline

MASKS = (
    "float32 [N, M, M], 0..1: probabilities in the cells of a grid over each box of `boxes`. Scale the boxes to the "
    "image; the grid lies gcd(side, resized) / (2 * resized) pixels right of the box and below it. Interpolate "
    "bilinearly between the centres of the cells, at the centres of the pixels inside the box, and keep pixels from "
    "`mask_threshold`: detection.masks.paste(masks, boxes, (height, width), offset=(right, down))"
)


class DetectorFile:
    """The steps around an exported detector: what a program does before it runs the file, and after.

    Args:
        loaded: the detector, with one view of each image.
        graph: the graph of the file.
        raw: whether the file itself resizes, normalises and pads the images of a batch, and scales the boxes back.
    """

    def __init__(self, loaded: TrainedDetector, graph: DetectorGraph, *, raw: bool = False) -> None:
        self.loaded, self.transform, self.graph, self.raw = loaded, loaded.model.transform, graph, raw

    def read(self, path: Path) -> Inputs:
        """Return the inputs of an image file, for the graph without the steps around it."""
        return self._prepared([self.loaded.read(path)])

    def inputs(self, images: Sequence[Tensor]) -> Inputs:
        """Return the inputs of a batch of images `[3, H, W]`; for a raw file, all of one size."""
        if not self.raw:
            return self._prepared(images)
        return (torch.stack([as_bytes(image) for image in images]),)

    def _prepared(self, images: Sequence[Tensor]) -> Inputs:
        """Resize, normalise and pad images; return the batch `[N, 3, H, W]` and the sizes of their contents."""
        batch, _ = self.transform(list(images))
        return batch.tensors.contiguous(), torch.tensor(batch.image_sizes, dtype=torch.float32)

    def detect(self, run: Runner, images: Sequence[Tensor]) -> list[Detections]:
        """Run the file on a batch; return the detections of each image in its own pixels, with category ids.

        If the file returns all proposals, they are suppressed here.
        """
        inputs = self.inputs(images)
        outputs = run(inputs)
        boxes, scores, labels, owners, *masks = (
            outputs if self.graph.suppress else self._suppressed(outputs, len(images))
        )
        found = []
        for number, image in enumerate(images):
            own, size = owners == number, (image.shape[-2], image.shape[-1])
            inside = boxes[own] if self.raw else resize_boxes(boxes[own], _content(inputs, number), size)
            named = self.loaded.named({"boxes": inside, "scores": scores[own], "labels": labels[own]})
            if masks:
                named = replace(named, outlines=self._outlines(masks[0][own], inside, size))
            found.append(named)
        return found

    def _suppressed(self, outputs: list[Tensor], count: int) -> tuple[Tensor, ...]:
        """Return the detections among all proposals of `count` images."""
        boxes, scores, owners = outputs
        return self.graph.suppressed(boxes, scores, owners, count)

    def _outlines(self, masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Outlines:
        """Paste masks as the detector does."""
        offset = self.loaded.predictor.grid_offset(size)
        return Outlines(tuple(encode(masks, boxes, size, offset=offset)), size)

    def check(self, run: Runner, paths: list[Path], where: str, accepts: Callable[[Inputs], bool]) -> FileCheck:
        """Compare the file with `detection.load(run)` on image files of six shapes, alone and in batches of three.

        Masks are compared with those that PyTorch predicts for the boxes of the file.

        Raises:
            UserError: detections or masks differ by more than rounding.
        """
        images = [self.loaded.read(path) for path in paths]
        alone = compare_detections(
            self.loaded, lambda image: self.detect(run, [image])[0], list(six_shapes(images)), where=where
        )
        threes = compare_detections(
            lambda image: self.loaded.predict(self._three(image))[0],
            lambda image: self.detect(run, self._three(image))[0],
            images[:2],
            where=f"{where}, in batches of three",
        )
        found = alone.found | {"in batches": f"{threes.found['detections']} in batches of three"}
        check = FileCheck(max(alone.difference, threes.difference), found)
        if not self.loaded.model.has_masks:
            return check
        gaps = torch.cat([self._mask_gaps(run, image) for image in six_shapes(images)])
        if not (gaps <= TOLERANCE).all():  # written this way because NaN must be refused too
            raise UserError(
                f"{where}: its masks differ from PyTorch by {gaps.max():.1e} (probabilities); no file was kept; export "
                "another model"
            )
        found |= {"masks": f"{len(gaps)} compared, of the boxes that the file finds"}
        return FileCheck(max([check.difference, *gaps.tolist()]), found)

    def _three(self, image: Tensor) -> list[Tensor]:
        """Return a batch that begins with an image: it, its mirror image, and it turned, if sizes may differ."""
        return [image, image.flip(-1), image.flip(-2) if self.raw else image.rot90(1, (-2, -1))]

    @torch.inference_mode()
    def _mask_gaps(self, run: Runner, image: Tensor) -> Tensor:
        """Return the largest difference of each mask of the file from PyTorch's mask of the same box `[D]`."""
        boxes, _, labels, _, masks = run(self.inputs([image]))
        model, inputs = self.loaded.model, self._prepared([image])
        size = _content(inputs, 0)
        boxes = resize_boxes(boxes, (image.shape[-2], image.shape[-1]), size) if self.raw else boxes
        expected = model.roi_heads.masks(model.backbone(inputs[0]), [boxes], [labels], [size])[0]
        return (masks - expected).abs().flatten(1).amax(1) if len(masks) else masks.new_zeros(0)

    def blanks(self) -> tuple[Inputs, ...]:
        """Return inputs without objects: two grey images; and, where contents may be empty, two without content."""
        side = self.transform.size_divisible
        if self.raw:
            return ((torch.full((2, 2 * side, 3 * side, 3), 128, dtype=torch.uint8),),)
        grey = torch.zeros(2, 3, 2 * side, 3 * side)
        return (grey, torch.tensor([grey.shape[-2:]] * 2, dtype=torch.float32)), (grey, torch.zeros(2, 2))


def exportable_detector(trained: TrainedFile, *, suppress: bool = True, raw: bool = False) -> Exportable:
    """Load a detector: images `[N, 3, H, W]` and the sizes of their contents to boxes, scores, labels and indices.

    The file views each image once, as `detection.load(run, sizes=(), flip=False, refine=False)` does.

    Args:
        suppress: whether the file leaves out low scores and overlapping boxes.
        raw: whether the file takes bytes `[N, H, W, 3]` of any size and returns boxes in their pixels.

    Raises:
        UserError: the file would have masks, but no suppression.
    """
    loaded = detection.load(
        trained.path, device="cpu", precision="fp32", sizes=(), flip=False, refine=False, soft_nms=False
    )
    model = prepare(loaded.model)
    if model.has_masks and not suppress:
        raise UserError(
            "--nms false: the masks are those of suppressed boxes; leave --nms out, or train without --masks"
        )
    graph = DetectorGraph(model, loaded.predictor.nms, suppress=suppress).eval()
    file, multiple = DetectorFile(loaded, graph, raw=raw), model.transform.size_divisible
    views = [name for name in ("test_sizes", "test_flip", "refine", "soft_nms") if trained.config.get(name)]
    options = ", ".join(f"--{name.replace('_', '-')}" for name in views)
    names = ["boxes", "scores", "labels", "batch_indices"] if suppress else ["boxes", "scores", "batch_indices"]
    return Exportable(
        graph,
        ("images", "sizes"),
        (*names, *(["masks"] if model.has_masks else [])),
        describe_detector(loaded, suppress=suppress, raw=raw),
        stride=multiple,
        multiple=multiple,
        batches=False,
        many=True,
        read=file.read,
        check=file.check,
        blanks=file.blanks(),
        notes={"left out": f"{options} of the run: the file views each image once"} if views else {},
        raw=raw_pipeline(model.transform) if raw else None,
    )


def describe_detector(loaded: TrainedDetector, *, suppress: bool, raw: bool) -> dict[str, object]:
    """Return the metadata of an exported detector."""
    model, categories = loaded.model, loaded.categories
    seen = model.transform.describe()
    multiple = model.transform.size_divisible
    where = "image as given" if raw else "resized image"
    metadata = common_metadata(loaded.trained) | {
        "category_ids": list(categories.ids),
        "category_names": list(categories.names),
        "preparation": {
            **COLOURS,
            "exif": "images are turned by their EXIF orientation",
            "resize": f"by min({seen['min_size']} / shorter side, {seen['max_size']} / longer side); sides are rounded "
            "down",
            "interpolation": "bilinear, half-pixel centres, no antialiasing, after normalising",
            "padding": f"zeros right and below, to the next multiple of {multiple} of the largest image of the batch",
            "in the file": raw,
        },
        "limits": {
            "score": model.roi_heads.score_thresh,
            "nms": loaded.predictor.nms,
            "detections": model.roi_heads.detections_per_img,
            "suppressed": suppress,
        },
        "batch_indices": "int64 [D]: index in the batch of the image of each detection",
    }
    if raw:
        metadata |= {"image": "uint8 [N, H, W, 3]: RGB images of one size, as they are decoded"}
    else:
        metadata |= {
            "images": "float32 [N, 3, H, W]: images resized by `input.min_size` and `input.max_size`, minus "
            f"`input.mean`, over `input.std`, zeros right of them and below up to multiples of {multiple}",
            "sizes": "float32 [N, 2]: their heights and widths in pixels, before the zeros",
        }
    if suppress:
        metadata |= {
            "boxes": f"float32 [D, 4], xyxy in pixels of the {where}",
            "scores": "float32 [D], 0..1, the highest first",
            "labels": "int64 [D], from 1: positions in `category_ids`",
        }
    else:
        metadata |= {
            "boxes": f"float32 [R, K, 4], xyxy in pixels of the {where}: of each proposal and category",
            "scores": "float32 [R, K], 0..1: of each proposal and category, before the limit and suppression",
            "batch_indices": "int64 [R]: index in the batch of the image of each proposal",
        }
    if model.has_masks:
        pasting = model.roi_heads.mask_pasting
        metadata |= {"masks": MASKS, "mask_threshold": THRESHOLD, "mask_pasting": pasting}
    return metadata


def _content(inputs: Inputs, number: int) -> tuple[int, int]:
    """Return height and width of the content of an image of a batch, from the inputs of a file."""
    return int(inputs[1][number, 0]), int(inputs[1][number, 1])
