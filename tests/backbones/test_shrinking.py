"""Large photographs are divided by a power of two while they are read for training: sizes, pixels, positions, boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.common.shrinking import read_shrunk, resize_ratio, shrink_factor, shrunk
from backbones.errors import UserError
from classification.data.folders import ClassFolder, list_classes
from classification.transforms import Augment as ClassAugment
from classification.transforms import Normalise, Views
from detection.data.annotations import CocoAnnotations
from detection.data.dataset import CocoDetection
from detection.preprocess import Preprocessor
from detection.transforms import AUGMENTATIONS, Augment

PLAIN = Normalise((0.5,) * 3, (0.2,) * 3)


def smooth(height: int, width: int) -> np.ndarray:
    """Pixels that rise evenly to the right and downwards, so that a position can be read from its colour."""
    red, green = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    return np.stack(np.broadcast_arrays(red, green, 90.0), axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((3000, 4000), 2),  # 3000 / 800 = 3.75, 4000 / 1333 = 3.0
        ((1599, 1599), 1),  # 1599 / 800 < 2
        ((1600, 1600), 2),
        ((480, 2666), 2),  # the long side decides: 2666 / 1333 = 2
        ((6400, 6400), 8),
        ((40, 100_000), 1),  # 100000 / 1333 = 75, but 40 / 2 pixels are too few
    ],
)
def test_an_image_stays_at_least_as_large_as_it_is_needed(size, factor):
    assert shrink_factor(resize_ratio(size, short_side=800, long_side=1333)) == factor
    assert Augment("train", model_sizes=(800, 1333)).shrink_factor(size) == factor


def test_the_largest_of_several_short_sides_decides():
    assert Augment("train", (400, 800), model_sizes=(100, 1333)).shrink_factor((1200, 1200)) == 1
    assert Augment("light", (400, 800), model_sizes=(100, 1333)).shrink_factor((1200, 1200)) == 8


def test_evaluation_and_augmentations_of_the_user_get_whole_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(AUGMENTATIONS, "_builders", dict(AUGMENTATIONS._builders))
    AUGMENTATIONS.register("mine")(lambda image, boxes, random: (image, boxes))
    for preset in ("eval", "mine"):
        assert Augment(preset, model_sizes=(100, 100)).shrink_factor((4000, 4000)) == 1
    assert Augment("train").shrink_factor((4000, 4000)) == 1  # a data set without a model


def test_pixels_are_averaged_and_sides_rounded_up():
    image = (4 * np.arange(15, dtype=np.uint8)).reshape(3, 5, 1).repeat(3, axis=2)
    # (0 + 4 + 20 + 24) / 4 = 12; the last column and row count twice: (16 + 36) / 2 = 26, (40 + 44) / 2 = 42.
    assert shrunk(image, 2)[..., 0].tolist() == [[12, 20, 26], [42, 50, 56]]
    assert shrunk(image, 1) is image


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("size", [(96, 128), (97, 131)])  # the decoder divides the first; the second is not divisible
def test_positions_divide_exactly_whatever_the_format(tmp_path: Path, suffix: str, size: tuple[int, int]):
    path, pixels = tmp_path / f"a.{suffix}", smooth(*size)
    Image.fromarray(pixels).save(path, quality=100, subsampling=0)
    for factor in (2, 4, 8, 16):
        found = read_shrunk(path, size=size, factor=factor)
        assert found.shape == (-(-size[0] // factor), -(-size[1] // factor), 3)
        # JPEG rounds coefficients, and a last row or column is repeated: no more than 3 of 255 in all.
        assert np.abs(found.astype(int) - shrunk(pixels, factor)).max() <= 3


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])  # annotations of the stored and of the turned image
def test_turned_photographs_are_shrunk_as_their_annotations_say(tmp_path: Path, size):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth(64, 96)).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    turned = smooth(64, 96) if size == (64, 96) else np.rot90(smooth(64, 96), -1)
    found = read_shrunk(tmp_path / "a.jpg", size=size, factor=4)
    assert np.abs(found.astype(int) - shrunk(np.ascontiguousarray(turned), 4)).max() <= 3


def test_damaged_files_and_wrong_sizes_are_the_same_errors_as_of_whole_images(tmp_path: Path):
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth(64, 96)).save(path)
    with pytest.raises(UserError, match=r"a\.jpg: is 96x64 pixels, but the annotations say 96x60"):
        read_shrunk(path, size=(60, 96), factor=4)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a\.jpg: does not decode"):
        read_shrunk(path, size=(64, 96), factor=4)


@pytest.fixture
def photograph(tmp_path: Path) -> CocoAnnotations:
    """One photograph of 512 x 384 pixels with two boxes, a thin one among them, and a crowd."""
    Image.fromarray(smooth(384, 512)).save(tmp_path / "a.jpg", quality=95)
    boxes = [[11, 20, 300, 201], [100.3, 50, 0.002, 90], [0, 0, 512, 384]]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": int(i == 2), "area": 1.0}
        for i, box in enumerate(boxes)
    ]
    images = [{"id": 1, "file_name": "a.jpg", "width": 512, "height": 384}]
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(data))
    return CocoAnnotations.read(tmp_path / "a.json", tmp_path)


@pytest.mark.parametrize("preset", ["train", "light"])
def test_a_detector_learns_the_same_boxes_from_shrunk_images(photograph: CocoAnnotations, preset: str):
    """After the model's own resizing, sizes, boxes and ignored regions are those of the whole image."""
    model = Preprocessor([0.5] * 3, [0.2] * 3, min_size=96, max_size=160)
    whole = CocoDetection(photograph, Augment(preset, (64, 96), seed=1))
    small = CocoDetection(photograph, Augment(preset, (64, 96), seed=1, model_sizes=(96, 160)))
    for epoch in range(4):
        (image, target), (less, scaled) = whole[(epoch, 0)], small[(epoch, 0)]
        assert image.shape == (3, 384, 512) and less.shape == (3, 96, 128)  # 512 / 160 = 3.2, 384 / 96 = 4
        assert torch.equal(scaled["boxes"] * 4, target["boxes"]) and torch.equal(scaled["ignore"] * 4, target["ignore"])
        (before, [seen]), (after, [got]) = model([image], [target]), model([less], [scaled])
        assert before.image_sizes == after.image_sizes
        torch.testing.assert_close(got["boxes"], seen["boxes"], rtol=0, atol=1e-3)  # float32 of about 100 pixels
        torch.testing.assert_close(got["ignore"], seen["ignore"], rtol=0, atol=1e-3)


def test_items_do_not_depend_on_what_was_read_before(photograph: CocoAnnotations):
    data = CocoDetection(photograph, Augment("train", (64, 96), seed=3, model_sizes=(96, 160)))
    first = [data[(epoch, 0)][0] for epoch in range(3)]
    assert all(torch.equal(data[(epoch, 0)][0], first[epoch]) for epoch in (2, 0, 1))


@pytest.mark.parametrize(
    ("preset", "size", "factor"),
    [
        ("standard", (3000, 4000), 2),  # sqrt(0.08 * 0.75 * 12e6) / 224 = 848 / 224 = 3.8
        ("modern", (375, 500), 1),
        ("light", (3000, 4000), 8),  # 2121 / 224 = 9.5
        ("paper", (3000, 4000), 4),  # 3000 / 480 = 6.25
        ("cifar", (3000, 4000), 8),  # 3000 / 224 = 13.4
        ("none", (3000, 4000), 8),
    ],
)
def test_a_classifier_never_enlarges_what_was_shrunk(preset, size, factor):
    assert ClassAugment(preset, 224, PLAIN).shrink_factor(size) == factor
    assert Views("center", 256, 224, PLAIN).shrink_factor(size) == 1


@pytest.mark.parametrize("preset", ["standard", "paper", "none"])
def test_a_classifier_gets_the_same_crops_of_shrunk_photographs(tmp_path: Path, preset: str):
    """The colours of the crops tell their positions: they agree up to one shrunk pixel and the rounding of JPEG."""
    (tmp_path / "a").mkdir()
    Image.fromarray(smooth(512, 512)).save(tmp_path / "a" / "a.jpg", quality=100, subsampling=0)
    whole = ClassFolder(list_classes(tmp_path), None, in_channels=3)
    augment = ClassAugment(preset, 32, PLAIN, seed=2)
    assert augment.shrink_factor((512, 512)) == {"standard": 2, "paper": 4, "none": 16}[preset]
    shrunk_folder = whole.with_transform(augment, in_channels=3, indices=np.arange(1))
    pixels = whole[0][0]
    for epoch in range(4):
        expected = augment(pixels.permute(1, 2, 0).numpy(), epoch=epoch, index=0).astype(int)
        found = shrunk_folder[(epoch, 0)][0].permute(1, 2, 0).numpy().astype(int)
        # A shrunk pixel covers `factor` of 512 pixels, so that a rounded corner moves by 8 / 2 of 255 at most.
        assert np.abs(found - expected).max() <= 8
