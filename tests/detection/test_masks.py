"""Masks of a data set: reading outlines, strips, targets of RoIs, augmentation, and masks that cannot be used."""

from __future__ import annotations

import json
import multiprocessing
import resource
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.models.detection.transform import _resize_image_and_masks

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import CocoDetection
from detection.runs import bitmaps, encode_strips, moved, strips_of, strips_of_codes, united
from detection.strips import MaskedRois, mask_targets, scaled, strips_of_bitmaps, targets_of_images
from detection.transforms import AUGMENTATIONS, Augment, register_augmentation

SIZE = (40, 60)  # height and width of the images
TRIANGLE = [10.0, 5, 30, 5, 10, 35]
FAR = [10.0, 10, 200, 10, 10, 35]  # reaches far out of the image
ISLANDS = [[32.0, 10, 40, 10, 40, 20, 32, 20], [45.0, 12, 55, 12, 55, 30, 45, 30]]


def ellipse(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (((x - 45) / 12) ** 2 + ((y - 20) / 9) ** 2 < 1).astype(np.uint8)


def run_lengths(bitmap: np.ndarray, *, compressed: bool) -> dict:
    code = coco_mask.encode(np.asfortranarray(bitmap))
    if compressed:
        return {"size": list(bitmap.shape), "counts": code["counts"].decode()}
    flat = bitmap.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(bitmap.shape), "counts": [0, *runs] if flat[0] else runs}


def annotation(number: int, outline: object, box: list[float], **more: object) -> dict:
    return {
        "id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0, "segmentation": outline,
        **more,
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Iterator:
    """Return a function that writes one image with the given annotations and reads it with masks."""

    def make(*annotations: dict, **options) -> CocoAnnotations:
        data = {
            "images": [{"id": 1, "file_name": "1.png", "height": SIZE[0], "width": SIZE[1]}],
            "annotations": list(annotations),
            "categories": [{"id": 1, "name": "thing"}],
        }
        path = tmp_path / "instances_train.json"
        path.write_text(json.dumps(data))
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "1.png")
        return CocoAnnotations.read(path, tmp_path, **{"without_mask": "error", **options})

    return make


def masks_of(item: dict[str, torch.Tensor], size: tuple[int, int] = SIZE) -> np.ndarray:
    return bitmaps(item["strips"].numpy(), len(item["boxes"]), size)


def test_polygons_and_both_forms_of_run_lengths_have_the_pixels_of_pycocotools(write):
    blob = ellipse(*SIZE)
    data = write(
        annotation(1, [TRIANGLE], [10, 5, 20, 30]),
        annotation(2, ISLANDS, [32, 10, 23, 20]),
        annotation(3, run_lengths(blob, compressed=True), [33, 11, 24, 18]),
        annotation(4, run_lengths(blob, compressed=False), [33, 11, 24, 18]),
        annotation(5, None, [0, 0, 20, 20], iscrowd=1),  # a crowd needs no mask
        annotation(6, [FAR], [10, 10, 50, 25]),
    )
    _, target = CocoDetection(data, Augment("eval"))[0]
    masks = masks_of(target)
    assert json.loads(data.source)["annotations"][4]["segmentation"]["counts"]  # in evaluation, the crowd's box
    assert len(masks) == 5 and target["ignore"].tolist() == [[0, 0, 20, 20]]
    for found, polygons in zip(masks, ([TRIANGLE], ISLANDS)):
        assert np.array_equal(found, coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *SIZE))))
    assert np.array_equal(masks[2], blob) and np.array_equal(masks[3], blob)
    assert np.array_equal(masks[4], coco_mask.decode(coco_mask.frPyObjects([FAR], *SIZE))[..., 0])
    assert data.masks.text.nbytes < 500  # the packed masks are run lengths, not bitmaps


BAD = {
    "of another size": ({"size": [20, 60], "counts": [0, 1200]}, r"a mask of \[20, 60\] for an image of \[40, 60\]"),
    "of two points": ([[10, 5, 30, 5]], "at least three points"),
    "too short": ({"size": list(SIZE), "counts": [100, 50]}, "add up to 150, not 40 x 60"),
    "a bomb": ({"size": [31623, 31623], "counts": [0, 10**9]}, r"a mask of \[31623, 31623\]"),
    "a broken text": ({"size": list(SIZE), "counts": "P0~"}, "`counts`"),
    "a text": ("mask.png", "neither a list of polygons nor run lengths"),
    "missing": (None, "`segmentation` is missing or empty"),
    "without a pixel": ([[10, 5, 10, 5, 10, 5]], "it has no pixel"),
    "outside its box": ([ISLANDS[1]], "it has no pixel in its box"),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_masks_are_counted_and_can_be_replaced_or_dropped(write, kind: str):
    outline, reason = BAD[kind]
    given = [
        annotation(1, outline, [10.5, 5, 19, 30]),
        annotation(2, [TRIANGLE], [10, 5, 20, 30]),
        annotation(3, outline, [2, 2, 4, 4]),
    ]
    with pytest.raises(UserError, match=rf"annotation 1 of image 1 has no usable mask: .*{reason}.*\(2 such objects\)"):
        write(*given)
    dropped = write(*given, without_mask="drop")
    assert len(dropped.boxes) == 1 and dropped.notes == {"objects without a usable mask are left out": 2}
    boxed = write(*given, without_mask="box")
    assert boxed.notes == {"objects without a usable mask have their box as mask": 2}
    first = masks_of(CocoDetection(boxed, Augment("eval"))[0][1])[0]
    assert first[5:35, 10:30].all() and first.sum() == 30 * 20
    # Evaluation has the same masks: without these objects, or with their boxes.
    assert [record["id"] for record in json.loads(dropped.source)["annotations"]] == [2]
    records = json.loads(boxed.source)["annotations"]
    assert coco_mask.area(records[0]["segmentation"]) == 600 and records[1]["segmentation"] == [TRIANGLE]
    assert write(*given, without_mask=None).masks is None  # boxes alone need no masks


def test_evaluation_counts_masks_of_boxes_without_area_and_knows_the_sizes_of_images(write, tmp_path: Path):
    """A flat box is not trained; its mask counts in evaluation if it is usable."""
    given = [
        annotation(1, [TRIANGLE], [10, 5, 20, 30]),
        annotation(2, [TRIANGLE], [10, 5, 0, 30]),
        annotation(3, [[1, 1]], [10, 5, 0, 30]),
        annotation(4, [[10, 5, 10, 5, 10, 5]], [10, 5, 0, 30], iscrowd=1),
    ]
    for without_mask in ("error", "box", "drop"):
        data = write(*given, without_mask=without_mask, bad_boxes="drop")
        assert len(data.boxes) == 1 and data.dropped == 3
        assert data.notes == {"objects with neither an area nor a usable mask are not evaluated": 2}
        assert [record["id"] for record in json.loads(data.source)["annotations"]] == [1, 2]
    assert write(*given[:2], bad_boxes="drop").source == tmp_path / "instances_train.json"
    content = json.loads((tmp_path / "instances_train.json").read_text())
    del content["images"][0]["width"]
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    sized = CocoAnnotations.read(tmp_path / "instances_train.json", tmp_path, without_mask="error", bad_boxes="drop")
    assert [image["width"] for image in json.loads(sized.source)["images"]] == [SIZE[1]]


def test_masks_that_reach_out_of_their_box_are_counted(write):
    data = write(annotation(1, [TRIANGLE], [12, 5, 10, 20]), annotation(2, [TRIANGLE], [11, 5, 20, 30]))
    assert data.notes == {"masks reach more than 2 pixels out of their box": 1}
    assert data.boxes[0].tolist() == [12, 5, 22, 25]  # the box stays as it is


def test_flips_move_masks_with_their_boxes_and_labels(write):
    data = write(
        annotation(1, [TRIANGLE], [10, 5, 20, 30]),
        annotation(2, None, [0, 0, 9, 9], iscrowd=1),
        annotation(3, ISLANDS, [32, 10, 23, 20]),
    )
    plain = masks_of(CocoDetection(data, Augment("eval"))[0][1])
    flips = set()
    for epoch in range(8):
        _, target = CocoDetection(data, Augment("light", seed=1, masks=True))[(epoch, 0)]
        flipped = target["boxes"][0, 0] != 10
        flips.add(bool(flipped))
        assert np.array_equal(masks_of(target), plain[:, :, ::-1] if flipped else plain)
    assert flips == {True, False}


def test_an_augmentation_that_empties_a_mask_drops_its_object(write, monkeypatch):
    monkeypatch.setattr(AUGMENTATIONS, "_builders", dict(vars(AUGMENTATIONS)["_builders"]))

    @register_augmentation("left_half")
    def left_half(image, boxes, masks, random):
        return image[:, :44], boxes, masks[:, :, :44]

    @register_augmentation("boxes_only")
    def boxes_only(image, boxes, random):
        return image, boxes

    data = write(
        annotation(1, [ISLANDS[1]], [40, 12, 15, 18]),  # the box reaches into the left part, the mask does not
        annotation(2, ISLANDS, [32, 10, 23, 20]),
        annotation(3, None, [0, 0, 9, 9], iscrowd=1),
    )
    image, target = CocoDetection(data, Augment("left_half", masks=True))[0]
    assert image.shape == (3, 40, 44) and target["boxes"].tolist() == [[32, 10, 44, 30]]
    assert target["ignore"].tolist() == [[0, 0, 9, 9]]
    assert np.array_equal(
        masks_of(target, (40, 44))[0], masks_of(CocoDetection(data, Augment("eval"))[0][1])[1][:, :44]
    )
    with pytest.raises(UserError, match=r"boxes_only: moves no masks; write it as a function of \(image, boxes, masks"):
        Augment("boxes_only", masks=True)


@pytest.mark.parametrize(("size", "scale"), [((97, 133), 1.7), ((151, 201), 0.37), ((60, 80), 1.0)])
def test_targets_equal_torchvisions(size: tuple[int, int], scale: float):
    """torchvision resizes bitmaps and applies RoIAlign; ours sums over strips. Boxes lie also at the image's edges."""
    random = torch.Generator().manual_seed(0)
    smooth = torch.rand(3, 1, 7, 7, generator=random)
    masks = (torch.nn.functional.interpolate(smooth, size=size, mode="bilinear")[:, 0] > 0.5).byte()
    image, target = _resize_image_and_masks(torch.rand(3, *size), int(min(size) * scale), 10**5, {"masks": masks})
    height, width = image.shape[-2:]
    corners = torch.rand(60, 2, 2, generator=random, dtype=torch.float64) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    boxes[0] = torch.tensor([0, 0, width, height])
    boxes[1] = torch.tensor([width - 0.3, height - 0.2, width, height])
    objects = torch.arange(60) % 3
    expected = project_masks_on_boxes(target["masks"], boxes, objects, 14)
    strips = scaled(strips_of_bitmaps(masks), size, (height, width))
    assert np.array_equal(bitmaps(strips.numpy(), 3, (height, width)), target["masks"].numpy())
    found = mask_targets(strips, boxes, objects, 14, (height, width))
    torch.testing.assert_close(found, expected)
    assert 0.2 < found.mean() < 0.8
    # Two images together give the targets of each.
    half, other = slice(0, 25), slice(25, 60)
    parts = [MaskedRois(strips, boxes[part], objects[part], 3, (height, width)) for part in (half, other)]
    torch.testing.assert_close(targets_of_images(parts, 14), found)
    # Autocast does not round targets to 16 bits.
    single = mask_targets(strips, boxes.float(), objects, 14, (height, width))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mask_targets(strips, boxes.float(), objects, 14, (height, width)), single)
    # An object without strips has an empty target.
    assert not mask_targets(strips[:0], boxes, objects, 14, (height, width)).any()


def test_run_lengths_can_be_moved_and_united():
    small, other = ellipse(40, 60), np.zeros((70, 90), np.uint8)
    code = moved(coco_mask.encode(np.asfortranarray(small)), 20, 30, (70, 90))
    expected = other.copy()
    expected[30:, 20:80] = small
    assert code == coco_mask.encode(np.asfortranarray(expected))
    other[:, 75:] = 1  # columns in full, which touch in the order of the pixels
    both = united([code, coco_mask.encode(np.asfortranarray(other))])
    assert both == coco_mask.encode(np.asfortranarray(expected | other))
    nothing = encode_strips(np.zeros((0, 4), np.int32), (70, 90))
    assert nothing == coco_mask.encode(np.zeros((70, 90), np.uint8, order="F")) and not len(strips_of(nothing))
    owners = strips_of_codes([code, nothing, both])[:, 0]
    assert set(owners.tolist()) == {0, 2}


def compute_many_targets(results: Connection) -> None:
    """Send the growth of this process's peak memory in KiB, and the targets of 300 objects, which are all equal."""
    torch.set_num_threads(1)  # a forked process must not use the threads of its parent
    height, width, count = 3000, 4000, 300
    column = np.arange(width, dtype=np.int32)
    top = (height / 2 - 1400 * np.sin(np.pi * (column + 0.5) / width)).astype(np.int32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one = np.stack([0 * column, column, column + 1, top, height - top], axis=1)
    owners = np.repeat(np.arange(count, dtype=np.int32), width)
    every = np.column_stack([owners, np.tile(one[:, 1:], (count, 1))])
    strips = scaled(torch.from_numpy(every), (height, width), (800, 1067))
    boxes = torch.tensor([[0.0, 0, 1067, 800]]).repeat(count, 1)
    found = mask_targets(strips, boxes, torch.arange(count), 28, (800, 1067))
    results.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, found.numpy()))


def test_targets_of_many_objects_in_a_large_image_need_little_memory():
    """300 bitmaps of 4000 x 3000 pixels have 3.6 GB; their strips have 4000 columns of 20 bytes each, 24 MB."""
    context = multiprocessing.get_context("fork")  # a new process, because the peak of this one may be higher already
    results, end = context.Pipe(duplex=False)
    process = context.Process(target=compute_many_targets, args=(end,))
    process.start()
    growth, found = results.recv()
    process.join()
    assert growth < 150 * 1024
    assert (found == found[0]).all()
    assert 0.55 < found[0].mean() < 0.65  # the area between two arcs of a sine: 2 / pi * 2800 / 3000 = 0.594
