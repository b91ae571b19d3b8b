"""Images and targets: decoding, EXIF, sizes, augmentation by (seed, epoch, index), batches, and finding files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from backbones.common.datasets import find_split
from backbones.common.images import read_image
from backbones.common.loading import loader
from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import CocoDetection, collate, select
from detection.transforms import Augment, sanitise


def dataset(coco, augment=Augment("eval"), **options) -> CocoDetection:  # noqa: B008
    return CocoDetection(CocoAnnotations.read(*find_split(coco.write(), "train")), augment, **options)


def test_an_item_is_a_uint8_image_and_its_target(coco):
    image, target = dataset(coco)[2]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 40, 60)
    assert target["boxes"].tolist() == [[30, 10, 55, 30]]
    assert target["labels"].tolist() == [1]
    assert target["ignore"].tolist() == [[0, 0, 20, 20]]  # the crowd is not an object
    assert int(target["image_id"]) == 9


def test_a_negative_has_empty_boxes(coco):
    target = dataset(coco)[1][1]
    assert target["boxes"].shape == (0, 4)
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].shape == (0,)


@pytest.mark.parametrize("preset", ["train", "light"])
def test_augmentation_depends_on_seed_epoch_and_index_alone(coco, preset):
    data = dataset(coco, Augment(preset, (32, 40, 48), seed=3))
    first = [data[(epoch, index)] for epoch in range(8) for index in range(3)]
    again = [dataset(coco, Augment(preset, (32, 40, 48), seed=3))[(e, i)] for e in range(8) for i in range(3)]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1]["boxes"], b[1]["boxes"]) for a, b in zip(first, again))
    other = [dataset(coco, Augment(preset, (32, 40, 48), seed=4))[(e, i)] for e in range(8) for i in range(3)]
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(first, other))
    assert any(not torch.equal(first[0][0], data[(epoch, 0)][0]) for epoch in range(1, 8))


def test_train_chooses_among_the_short_sides(coco):
    data = dataset(coco, Augment("train", (32, 40, 48), seed=0))
    picked = {int(data[(epoch, 0)][1]["short_side"]) for epoch in range(20)}
    assert picked == {32, 40, 48}


def test_flipped_boxes_still_frame_the_same_pixels(coco):
    """The box of a bright rectangle on black frames the bright pixels, flipped or not."""
    coco.write()
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[5:35, 10:30] = 255
    Image.fromarray(pixels).save(coco.images() / "005.png")
    coco.data["images"][0]["file_name"] = "005.png"
    coco.annotations().write_text(json.dumps(coco.data))
    annotations = CocoAnnotations.read(coco.annotations(), coco.images())
    data = CocoDetection(annotations, Augment("light", seed=1))
    lefts = set()
    for epoch in range(10):
        image, target = data[(epoch, 0)]
        columns = torch.nonzero(image[0].float().mean(0) > 100).flatten()
        left, right = int(columns.min()), int(columns.max()) + 1
        assert target["boxes"][0].tolist() == [left, 5, right, 35]
        lefts.add(left)
    assert lefts == {10, 30}


def test_sanitise_clips_and_filters():
    boxes = np.array([[-5, -5, 20, 20], [50, 50, 80, 80], [100.5, 0, 120, 50], [30, 30, 30, 40]], np.float32)
    kept, indices = sanitise(boxes, (60, 100))
    assert indices.tolist() == [0, 1]
    assert kept.tolist() == [[0, 0, 20, 20], [50, 50, 80, 60]]


@pytest.mark.parametrize("preset", ["train", "light"])
def test_boxes_of_one_pixel_and_less_survive_the_built_in_augmentations(coco, preset):
    """The rule for a box without area is that of the reader: whatever it keeps can be learned from."""
    coco.data["annotations"][0]["bbox"] = [10, 5, 1, 30]
    coco.data["annotations"][1]["bbox"] = [30.5, 10, 0.002, 20]
    plain = dataset(coco)
    data = dataset(coco, Augment(preset, seed=2))
    counts = [len(plain[index][1]["boxes"]) for index in range(3)]
    assert sum(counts) == (~plain.annotations.crowd).sum() and plain.annotations.dropped == 0
    for epoch in range(6):
        assert [len(data[(epoch, index)][1]["boxes"]) for index in range(3)] == counts


def test_crowd_flags_and_labels_stay_with_their_boxes(coco):
    data = dataset(coco, Augment("light", seed=5))
    for epoch in range(6):
        target = data[(epoch, 2)][1]
        assert target["boxes"].shape == (1, 4)
        assert (target["boxes"][:, 3] - target["boxes"][:, 1]).tolist() == pytest.approx([20])  # 25 x 20: the object
        assert (target["ignore"][:, 2] - target["ignore"][:, 0]).tolist() == pytest.approx([20])  # 20 x 20


def exif_jpeg(path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


def test_exif_orientation_is_applied_if_the_annotations_follow_it(tmp_path: Path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255  # bright on the left
    exif_jpeg(tmp_path / "turned.jpg", pixels, orientation=6)  # to be rotated by 90 degrees clockwise for display
    shown = read_image(tmp_path / "turned.jpg", size=(60, 40))
    assert shown.shape == (60, 40, 3)
    assert shown[:25].mean() > 200 > 50 > shown[35:].mean()  # left has become top
    raw = read_image(tmp_path / "turned.jpg", size=(40, 60))  # annotations made on the pixels before rotation
    assert raw.shape == (40, 60, 3)
    assert raw[:, :25].mean() > 200


def test_a_size_that_differs_from_the_annotations_is_an_error_that_names_both(tmp_path: Path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg: is 60x40 pixels, but the annotations say 64x48"):
        read_image(tmp_path / "a.jpg", size=(48, 64))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_jpeg_is_an_error_that_names_it(tmp_path: Path, share: float):
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"cut\.jpg: does not decode"):
        read_image(path)


def test_grey_and_palette_images_become_rgb(tmp_path: Path):
    Image.new("L", (8, 6), 77).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png")[0, 0].tolist() == [77, 77, 77]
    Image.new("RGB", (8, 6), (10, 20, 200)).save(tmp_path / "blue.png")
    assert read_image(tmp_path / "blue.png")[0, 0].tolist() == [10, 20, 200]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_in_a_worker_still_names_the_file(coco, workers):
    data = dataset(coco)
    (coco.images() / "007.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    with pytest.raises(UserError, match=r"007\.jpg: does not decode"):
        list(loader(data, workers=workers, collate=collate, batch_size=1))


def test_loader_gives_lists_of_images_of_any_size(coco):
    images, targets = next(iter(loader(dataset(coco), workers=0, collate=collate, batch_size=4)))
    assert [tuple(image.shape) for image in images] == [(3, 40, 60)] * 4
    assert [len(target["boxes"]) for target in targets] == [2, 0, 1, 0]
    assert collate([(1, 2), (3, 4)]) == ([1, 3], [2, 4])


def test_negatives_can_be_dropped_and_limit_counts_the_rest(coco):
    annotations = CocoAnnotations.read(*find_split(coco.write(), "train"))
    assert select(annotations).tolist() == [0, 1, 2, 3]
    assert select(annotations, negatives="drop").tolist() == [0, 2]
    assert select(annotations, negatives="drop", limit=1).tolist() == [0]


def test_aspect_groups(coco):
    coco.data["images"][1].update(width=40, height=60)
    coco.write()
    cv2.imwrite(str(coco.images() / "007.jpg"), np.zeros((60, 40, 3), np.uint8))
    annotations = CocoAnnotations.read(coco.annotations(), coco.images())
    assert CocoDetection(annotations, Augment("eval")).aspect_groups().tolist() == [1, 0, 1, 1]


def test_find_split_reads_cocos_layout_and_names_missing_files(coco, tmp_path: Path):
    root = coco.write()
    assert find_split(root, "val") == (coco.annotations("val"), coco.images("val"))
    (root / "images").mkdir()
    coco.images("val").rename(root / "images" / "val2017")
    assert find_split(root, "val")[1] == root / "images" / "val2017"
    with pytest.raises(UserError, match="no such folder"):
        find_split(tmp_path / "absent", "train")
    with pytest.raises(UserError, match=r"has no annotations/instances_train\*\.json"):
        find_split(tmp_path, "train")
    for other in ("validation", "valminusminival2014", "val_images"):
        (root / "annotations" / f"instances_{other}.json").write_text("{}")
    assert find_split(root, "val")[0] == coco.annotations("val")
    (root / "annotations" / "instances_val2014.json").write_text("{}")
    with pytest.raises(UserError, match="several annotation files for val"):
        find_split(root, "val")


def test_images_of_rare_classes_repeat(coco):
    """Four images: one has dog and brush, one has car: f = 1/4 each. At threshold 1 both get sqrt(4) = 2.

    The dog of the fourth image is a crowd, and asks for nothing. Of the first two images f = 1/2: sqrt(2).
    """
    coco.write()
    annotations = CocoAnnotations.read(coco.annotations(), coco.images())
    data = CocoDetection(annotations, Augment("eval"))
    assert data.repeat_factors(1.0).tolist() == [2, 1, 2, 1]
    assert data.repeat_factors(0.25).tolist() == [1, 1, 1, 1]
    few = CocoDetection(annotations, Augment("eval"), indices=[1, 0])
    assert few.repeat_factors(1.0).tolist() == [1, 2**0.5]
