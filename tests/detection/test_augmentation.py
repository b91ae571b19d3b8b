"""Steps of augmentation: pixels, boxes, masks and ignore regions move together, as a function of seed, epoch, index."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks

from backbones.common.datasets import find_split
from backbones.errors import BadImageError, UserError
from detection.augmentation.mixing import CopyPaste, Mixup, Mosaic
from detection.augmentation.sample import Sample, covered, cropped, padded, resized
from detection.augmentation.steps import Context, IouCrop, LargeScaleJitter
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import CocoDetection
from detection.runs import bitmaps
from detection.transforms import AUGMENTATIONS, Augment, register_augmentation
from tools.engine.bad_images import BadImages

COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)  # of classes 1, 2 and 3
ELLIPSES = [  # class, centre and radii of the objects of each image; the classes of an image differ
    [(1, 20, 20, 12, 9), (2, 60, 30, 9, 14)],
    [(3, 40, 30, 25, 16)],
    [(2, 30, 40, 15, 15), (3, 70, 12, 8, 10)],
    [],
    [(1, 50, 25, 20, 12), (3, 15, 45, 10, 8)],
]
SIDES = {"model_sizes": (64, 96), "short_sides": (48, 64)}
MIXED = """
- HorizontalFlip: {p: 0.5}
- VerticalFlip: {p: 0.5}
- large_scale_jitter: {scale: [0.6, 1.6]}
- copy_paste: {p: 0.8, least_visible: 0}
- mosaic: {p: 0.6, least_visible: 0}
- iou_crop: {p: 0.5}
"""


def ellipse(_: int, x: int, y: int, a: int, b: int) -> np.ndarray:
    rows, columns = np.mgrid[:60, :90]
    return ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 < 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Black images with ellipses in the colours of their classes, in COCO's layout with masks."""
    images, annotations = [], []
    (tmp_path / "data" / "train2017").mkdir(parents=True)
    for number, shapes in enumerate(ELLIPSES):
        pixels = np.zeros((60, 90, 3), np.uint8)
        for shape in shapes:
            mask = ellipse(*shape)
            pixels[mask] = COLOURS[shape[0] - 1]
            code = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            box, code = coco_masks.toBbox(code).tolist(), {**code, "counts": code["counts"].decode()}
            entry = {"image_id": number, "category_id": shape[0], "bbox": box, "segmentation": code, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "area": box[2] * box[3], **entry})
        Image.fromarray(pixels).save(tmp_path / "data" / "train2017" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 90, "height": 60})
    categories = [{"id": label, "name": name} for label, name in enumerate("abc", start=1)]
    (tmp_path / "data" / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "data" / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return tmp_path / "data"


def dataset(root: Path, preset: str, *, masks: bool = True, **options: Any) -> CocoDetection:
    truth = CocoAnnotations.read(*find_split(root, "train"), without_mask="error" if masks else None)
    return CocoDetection(truth, Augment(preset, masks=masks, seed=3, **SIDES), **options)


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    (tmp_path / "mixed.yaml").write_text(MIXED)
    return str(tmp_path / "mixed.yaml")


def test_pixels_boxes_and_masks_move_together(data: Path, mixed: str):
    """Pixels well inside a mask have the colour of its class, and pixels outside all masks have no class's colour."""
    images = dataset(data, mixed)
    several = 0
    for epoch in range(12):
        for index in range(len(images)):
            image, target = images[epoch, index]
            pixels, (height, width) = image.permute(1, 2, 0).numpy().astype(int), image.shape[1:]
            masks = bitmaps(target["strips"].numpy(), len(target["boxes"]), (height, width))
            for box, label, mask in zip(target["boxes"].numpy(), target["labels"].numpy(), masks, strict=True):
                inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderValue=0).astype(bool)
                assert (np.abs(pixels[inside] - COLOURS[label - 1]) < 60).all()
                rows, columns = np.nonzero(mask)
                frame = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                # A pixel that is resized by 1.6 covers up to 1.6 pixels; nearest neighbours move an edge by one.
                assert np.abs(box - frame).max() <= 2.6
            around = cv2.dilate(masks.max(axis=0, initial=0), np.ones((7, 7), np.uint8)).astype(bool)
            coloured = (pixels.max(axis=2) > 200) & (pixels.min(axis=2) < 50)
            # Only IoU crops leave pixels of objects that they drop.
            several += len(set(target["labels"].tolist())) > 2 and not (coloured & ~around).any()
    assert several > 5  # images with objects of several others


@pytest.mark.parametrize("preset", ["lsj", "strong", "mixed"])
def test_mixed_images_depend_on_seed_epoch_and_index_alone(data: Path, mixed: str, preset: str):
    """The order of reading and the process do not matter, and partners come from the training images only."""
    images = dataset(data, mixed if preset == "mixed" else preset)
    keys = [(epoch, index) for epoch in range(3) for index in range(len(images))]
    first = {key: images[key] for key in keys}
    copy = pickle.loads(pickle.dumps(images))  # as a worker process gets it
    for key in reversed(keys):
        image, target = copy[key]
        assert torch.equal(image, first[key][0])
        assert all(torch.equal(value, first[key][1][name]) for name, value in target.items())
    assert any(not torch.equal(first[0, n][0], first[1, n][0]) for n in range(len(images)))
    # With image 1 alone, no object of another class is mixed in.
    alone = dataset(data, mixed if preset == "mixed" else preset, indices=[1])
    assert {label for epoch in range(8) for label in alone[epoch, 0][1]["labels"].tolist()} <= {3}


def test_boxes_alone_are_pasted_by_masks_that_the_model_does_not_get(data: Path, mixed: str):
    truth = CocoAnnotations.read(*find_split(data, "train"), without_mask="keep")
    images = CocoDetection(truth, Augment(mixed, seed=3, **SIDES), boxes_only=True)
    with_masks = dataset(data, mixed)
    for key in ((0, 0), (1, 2), (2, 4)):
        image, target = images[key]
        assert "strips" not in target
        assert torch.equal(image, with_masks[key][0]) and torch.equal(target["boxes"], with_masks[key][1]["boxes"])


def sample(size: tuple[int, int], boxes: list[list[float]], *, crowd: list[bool] | None = None) -> Sample:
    """Return a sample whose masks fill their boxes; ignore regions have none."""
    crowds = np.array(crowd or [False] * len(boxes), bool)
    strips = [[n, x, right, y, bottom] for n, (x, y, right, bottom) in enumerate(boxes) if not crowds[n]]
    labels = np.arange(1, len(boxes) + 1)
    image = np.full((*size, 3), 7, np.uint8)
    return Sample(image, np.array(boxes, np.float32).reshape(-1, 4), labels, crowds, np.array(strips, np.int32))


def context(*partners: Sample, seed: int = 0, side: int = 32) -> Context:
    waiting = list(partners)
    return Context(np.random.default_rng(seed), side, (), lambda: waiting.pop(0))


def test_crops_cut_masks_and_frame_what_is_left():
    whole = sample((40, 40), [[5, 5, 15, 15], [0, 0, 4, 4], [2, 2, 30, 30]], crowd=[False, False, True])
    part = cropped(whole, 10, 8, (20, 20))
    # The first box keeps 10..15 x 8..15, moved by (-10, -8); the second lies outside; the crowd is cut.
    assert part.boxes.tolist() == [[0, 0, 5, 7], [0, 0, 20, 20]]
    assert part.crowd.tolist() == [False, True] and part.labels.tolist() == [1, 3]
    assert part.strips.tolist() == [[0, 0, 5, 0, 7]]
    back = padded(part, (40, 40), 10, 8)
    assert back.boxes.tolist() == [[10, 8, 15, 15], [10, 8, 30, 28]] and back.strips.tolist() == [[0, 10, 15, 8, 15]]


def test_an_object_that_shrinks_to_nothing_is_dropped():
    tiny = resized(sample((40, 40), [[1, 1, 2, 2], [8, 8, 24, 24]]), (10, 10))
    assert tiny.boxes.tolist() == [[2, 2, 6, 6]] and tiny.strips.tolist() == [[0, 2, 6, 2, 6]]


def test_covered_objects_are_updated_or_dropped_by_their_visible_fraction():
    below = sample((20, 20), [[0, 0, 4, 4], [8, 0, 12, 4], [0, 10, 4, 14], [0, 0, 20, 20]], crowd=[False] * 3 + [True])
    # The ignore region has a mask, as the objects that --shots leaves out have.
    below = replace(below, strips=np.concatenate([below.strips, [[3, 8, 12, 0, 4]]]).astype(np.int32))
    cover = np.zeros((20, 20), bool)
    cover[0:4, 2:12] = True  # half of the first object, all of the second
    cover[11:14, 0:4] = cover[10, 0:3] = True  # 15 of the 16 pixels of the third: 1/16 = 0.0625 stays visible
    kept = covered(below, cover, 0.1)
    assert kept.boxes.tolist() == [[0, 0, 2, 4], [0, 0, 20, 20]] and kept.crowd.tolist() == [False, True]
    assert bitmaps(kept.strips, 2, (20, 20)).sum(axis=(1, 2)).tolist() == [8, 16]
    assert covered(below, cover, 0.05).boxes.tolist() == [[0, 0, 2, 4], [3, 10, 4, 11], [0, 0, 20, 20]]
    # Without masks the uncovered part of the box counts: 8/16, 0/16, 1/16.
    assert covered(Sample(below.image, below.boxes, below.labels, below.crowd), cover, 0.1).labels.tolist() == [1, 4]


def test_copy_paste_joins_the_objects_of_both_and_blends_edges_only_if_asked():
    base = sample((20, 20), [[0, 0, 10, 10]])
    other = sample((20, 20), [[5, 0, 15, 10], [0, 0, 20, 20]], crowd=[False, True])
    other.image[:] = 99
    pasted = CopyPaste(p=1, fraction=1)(base, context(other))
    assert pasted.boxes.tolist() == [[0, 0, 5, 10], [5, 0, 15, 10]]  # the crowd is not pasted
    assert (pasted.image[:10, 5:15] == 99).all() and (pasted.image != 7).sum() == 3 * 100
    soft = CopyPaste(p=1, fraction=1, blend=1)(base, context(other))
    assert 7 < soft.image[5, 4, 0] < 99 and soft.boxes.tolist() == pasted.boxes.tolist()
    # A partner of another size is resized to fit: 40 x 40 to 20 x 20.
    large = sample((40, 40), [[10, 0, 30, 20]])
    assert CopyPaste(p=1, fraction=1)(base, context(large)).boxes.tolist() == [[0, 0, 5, 10], [5, 0, 15, 10]]


def test_mixup_averages_and_keeps_all_objects():
    base, other = sample((20, 20), [[0, 0, 10, 10]]), sample((20, 20), [[5, 5, 15, 15]])
    other.image[:] = 207
    mixed = Mixup(p=1, alpha=1e6)(base, context(other))  # so that the weight is one half
    assert mixed.boxes.tolist() == [[0, 0, 10, 10], [5, 5, 15, 15]] and mixed.strips[:, 0].tolist() == [0, 1]
    assert np.abs(mixed.image.astype(int) - 107).max() <= 1


def test_mosaic_puts_the_inner_corners_at_its_centre():
    parts = [sample((32, 32), [[0, 0, 32, 32]]) for _ in range(4)]
    joined = Mosaic(size=32, scale=(1, 1), centre=(0.5, 0.5))(parts[0], context(*parts[1:]))
    # Each image of 32 pixels is cut to its quarter: upper left, lower left, upper right, lower right.
    assert joined.boxes.tolist() == [[0, 0, 16, 16], [0, 16, 16, 32], [16, 0, 32, 16], [16, 16, 32, 32]]
    assert joined.short_side == 32 and (joined.image == 7).all()
    half = Mosaic(size=32, scale=(0.25, 0.25), centre=(0.5, 0.5))(parts[0], context(*parts[1:]))
    assert half.boxes.tolist() == [[8, 8, 16, 16], [8, 16, 16, 24], [16, 8, 24, 16], [16, 16, 24, 24]]


def test_large_scale_jitter_makes_squares_and_keeps_the_aspect():
    for seed in range(20):
        seen = LargeScaleJitter(size=48)(sample((30, 60), [[0, 0, 60, 30]]), context(seed=seed))
        assert seen.size == (48, 48) and seen.short_side == 48
        width, height = (seen.boxes[0, 2:] - seen.boxes[0, :2]).tolist()
        assert width == 48 or width == pytest.approx(2 * height, abs=2)  # cut, or twice as wide as high


def test_iou_crops_keep_objects_whose_centre_they_hold():
    whole = sample((60, 60), [[5, 5, 25, 25], [40, 40, 55, 55], [0, 0, 60, 60]], crowd=[False, False, True])
    step = IouCrop(overlaps=(0.3,), trials=400)
    for seed in range(30):
        part = step(whole, context(seed=seed))
        assert len(part.boxes) > 1 and part.crowd.sum() == 1 and part.size != whole.size
        # IoU with the whole objects is at least 0.3, and the part holds at least the objects' visible fractions.
        areas = (part.boxes[:, 2:] - part.boxes[:, :2]).prod(axis=1)[~part.crowd]
        assert (areas / (part.size[0] * part.size[1])).max() >= 0.3
    assert IouCrop(overlaps=(1.0,))(whole, context()) is whole
    empty = sample((60, 60), [[0, 0, 60, 60]], crowd=[True])
    assert IouCrop()(empty, context()) is empty


WRONG = {
    "- flop": "unknown step 'flop'",
    "- mosaik": "unknown step 'mosaik': did you mean mosaic",
    "- mosaic: {scal: [1, 2]}": "mosaic: unknown parameter 'scal': did you mean scale",
    "- mosaic: {scale: 2}": r"mosaic: scale is 2; write a value such as \[0.4, 1.0\]",
    "- copy_paste: {p: 2}": "copy_paste: p must be 0 to 1",
    "- GausianBlur": "unknown transform of albumentations 'GausianBlur': did you mean GaussianBlur",
    "- GaussianBlur: {sigma: 3}": "GaussianBlur: .*sigma",
    "- GaussianBlur: {sigma_limit: [-1, 2]}": "GaussianBlur: sigma_limit: .*; correct its parameters",
    # The model converts and normalises images itself, so that these would train on other values than it is tested on.
    "- Normalize": r"Normalize: turns an image of uint8 \[64, 64, 3\] into float32",
    "- ToFloat": "ToFloat: turns an image of uint8 .* into float32",
    "- ToGray: {num_output_channels: 1}": r"ToGray: .* into uint8 \[64, 64\], but",
    "- FDA": "FDA: needs fda_metadata, which a list of steps cannot give",
    "- short_side: {sides: [0]}": "short_side: sides must be whole numbers above 0",
    "- short_side: {sides: [640.5]}": "short_side: sides must be whole numbers above 0",
    "- large_scale_jitter: {scale: [0.1, .inf]}": r"scale is \[0.1, inf\]; write a value such as \[0.1, 2.0\]",
    "- copy_paste: {blend: 1000}": "copy_paste: blend must be 0 to 100 pixels",
    "- photometric: {p: 0.5}": "photometric: has no parameters; leave them out",
    "mosaic": "is no list of steps",
    "- [mosaic]": "is no step; write its name",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_list_of_steps_is_refused_in_one_line(tmp_path: Path, text: str):
    path = tmp_path / "steps.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=WRONG[text]) as caught:
        Augment(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_preset_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="there is no such file"):
        Augment(str(tmp_path / "absent.yaml"))
    with pytest.raises(UserError, match="unknown augmentation 'strongest': did you mean strong"):
        Augment("strongest")


def test_masks_must_reach_the_step_that_pastes_by_them(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(AUGMENTATIONS, "_builders", dict(vars(AUGMENTATIONS)["_builders"]))
    register_augmentation("boxes_alone")(lambda image, boxes, random: (image, boxes))
    (tmp_path / "steps.yaml").write_text("- boxes_alone\n- copy_paste\n")
    with pytest.raises(UserError, match="augment boxes_alone: moves no masks"):
        Augment(str(tmp_path / "steps.yaml"), masks=False)
    (tmp_path / "steps.yaml").write_text("- copy_paste\n- boxes_alone\n")
    assert Augment(str(tmp_path / "steps.yaml"), masks=False).pastes


def test_a_registered_augmentation_is_a_step_with_parameters(data: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(AUGMENTATIONS, "_builders", dict(vars(AUGMENTATIONS)["_builders"]))

    @register_augmentation("shift_left")
    def shift_left(image, boxes, masks, random, pixels=1):
        return image[:, pixels:], boxes - [pixels, 0, pixels, 0], masks[:, :, pixels:]

    (tmp_path / "steps.yaml").write_text("- shift_left: {pixels: 8}\n- VerticalFlip: {p: 1}\n")
    plain, moved = (dataset(data, preset)[0, 0] for preset in ("eval", str(tmp_path / "steps.yaml")))
    assert torch.equal(moved[0], plain[0][:, :, 8:].flip(1))
    left, top, right, bottom = plain[1]["boxes"].unbind(1)
    assert torch.equal(moved[1]["boxes"], torch.stack([left - 8, 60 - bottom, right - 8, 60 - top], dim=1))


def test_a_partner_that_does_not_decode_is_named_or_skipped(data: Path, tmp_path: Path):
    (tmp_path / "steps.yaml").write_text("- mixup: {p: 1}")
    images = dataset(data, str(tmp_path / "steps.yaml"))
    (data / "train2017" / "1.png").write_bytes(b"broken")
    reads = next(epoch for epoch in range(99) if fails(images, (epoch, 0)))
    with pytest.raises(BadImageError, match=r"1\.png: does not decode"):
        _ = images[reads, 0]
    (tmp_path / "run").mkdir()
    bad = BadImages(tmp_path / "run", skip=True, seed=0)
    image, _ = bad.replacing(images)[reads, 0]
    assert image.shape == (3, 60, 90)
    assert bad.files() == [str(data / "train2017" / "1.png")]


def fails(images: CocoDetection, key: tuple[int, int]) -> bool:
    try:
        _ = images[key]
    except BadImageError:
        return True
    return False


def test_large_images_are_shrunk_as_far_as_the_steps_allow(mixed: str, tmp_path: Path):
    factors = {name: Augment(name, model_sizes=(100, 200)).shrink_factor((1600, 1600)) for name in ("light", "lsj")}
    # light: to a short side of 100, 16 times; lsj: up to twice 100, 8 times.
    assert factors == {"light": 16, "lsj": 8}
    (tmp_path / "mosaic.yaml").write_text("- mosaic: {size: 400}")
    assert Augment(str(tmp_path / "mosaic.yaml"), model_sizes=(100, 200)).shrink_factor((1600, 1600)) == 4
    assert Augment(mixed, model_sizes=(100, 200)).shrink_factor((1600, 1600)) == 1  # a crop may be a small part
