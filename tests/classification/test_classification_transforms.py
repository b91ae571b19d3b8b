"""Augmentation as a function of (seed, epoch, index), each preset by hand, and views equal to torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from classification import transforms
from classification.transforms import (
    PRESETS,
    Augment,
    Normalise,
    Views,
    center,
    corners,
    mirrored,
    resized,
)

RANDOM = [preset for preset in PRESETS if preset != "none"]


def picture(height: int = 40, width: int = 52, channels: int = 3, kind: type = np.uint8) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels))
    return values.astype(kind) if kind is np.uint8 else (values / 255).astype(kind)


def plain(channels: int = 3) -> Normalise:
    return Normalise((0.0,) * channels, (1.0,) * channels)


def chw(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@pytest.mark.parametrize("preset", RANDOM)
def test_augmentation_is_a_function_of_seed_epoch_and_index(preset: str):
    image = picture()
    before = image.copy()
    first = Augment(preset, 32, plain(), seed=3)(image, epoch=1, index=7)
    np.random.rand(5)
    torch.rand(5)
    state = torch.get_rng_state()
    augment = Augment(preset, 32, plain(), seed=3)
    augment(image, epoch=2, index=9)
    assert np.array_equal(augment(image, epoch=1, index=7), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(image, before)  # the image itself is unchanged
    others = [augment(image, epoch=2, index=7), augment(image, epoch=1, index=8)]
    others.append(Augment(preset, 32, plain(), seed=4)(image, epoch=1, index=7))
    assert all(not np.array_equal(other, first) for other in others)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("channels", "kind"), [(1, np.uint8), (3, np.uint8), (5, np.uint8), (1, np.float32), (5, np.float32)]
)
def test_every_preset_takes_every_kind_of_image(preset: str, channels: int, kind: type):
    augment = Augment(preset, 32, plain(channels))
    for height, width in ((40, 52), (17, 33), (90, 20), (32, 32)):
        for index in range(4):
            out = augment(picture(height, width, channels, kind), epoch=0, index=index)
            assert (out.shape, out.dtype) == ((32, 32, channels), kind)


def test_cifar_pads_by_four_crops_32_and_flips():
    """Section 4.2: 4 pixels of zeros on each side, a 32 x 32 crop of it or of its mirror image."""
    image = np.maximum(picture(32, 32), 1)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crops = {
        candidate[top : top + 32, left : left + 32].tobytes(): (flip, top, left)
        for flip, candidate in enumerate((padded, padded[:, ::-1]))
        for top in range(9)
        for left in range(9)
    }
    augment = Augment("cifar", 32, plain())
    seen = [crops[augment(image, epoch=0, index=index).tobytes()] for index in range(300)]
    # 300 draws of 2 x 9 x 9 places: each side and each offset comes up (a given one stays out with p < 1e-15).
    assert {flip for flip, _, _ in seen} == {0, 1}
    assert {top for _, top, _ in seen} == {left for _, _, left in seen} == set(range(9))
    assert 100 < sum(flip for flip, _, _ in seen) < 200  # 150 expected, standard deviation 8.7


def test_paper_jitters_the_shorter_side_within_its_bounds(monkeypatch: pytest.MonkeyPatch):
    """Section 3.4: between 256 and 480 for crops of 224; 37 (32 * 256 / 224) and 69 (32 * 480 / 224) for 32."""
    assert [round(224 * factor) for factor in transforms.JITTER] == [256, 480]
    sides: list[int] = []

    def spy(image: np.ndarray, side: int) -> np.ndarray:
        sides.append(side)
        return resized(image, side)

    monkeypatch.setattr(transforms, "resized", spy)
    augment = Augment("paper", 32, plain(1))
    for index in range(400):
        augment(picture(channels=1), epoch=0, index=index)
    assert set(sides) == set(range(37, 70))  # 33 sides: one stays out of 400 draws with p < 2e-4, and the seed is fixed


def test_paper_shifts_colours_of_pictures_only():
    grey = np.full((40, 40, 1), 100, np.uint8)
    assert set(np.unique(Augment("paper", 32, plain(1))(grey, epoch=0, index=0))) == {100}
    ramp = np.repeat(np.arange(40, dtype=np.uint8)[:, None, None] * 5, 40, 1).repeat(3, 2) // np.array([1, 2, 3])
    ramp = ramp.astype(np.uint8)
    means = [Augment("paper", 32, plain())(ramp, epoch=0, index=i).mean((0, 1)) for i in range(8)]
    ratios = [round(float(mean[0] / mean[1]), 3) for mean in means]
    assert len(set(ratios)) > 4  # flips and crops alone would keep the hue


def test_light_and_standard_crop_no_less_than_their_share():
    """A crop of at least half the area of a ramp spans at least about half of it; of 8 % it may span far less."""
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, 0)
    spans = {}
    for preset in ("light", "standard"):
        augment = Augment(preset, 32, plain(1))
        spans[preset] = [int(np.ptp(augment(ramp, epoch=0, index=index))) for index in range(60)]
    # Area 0.5 and aspect 3/4: width sqrt(0.5 * 3 / 4) = 0.61 of 200 = 122, minus one pixel on each side.
    assert min(spans["light"]) >= 122 * 31 / 32 - 3
    assert min(spans["standard"]) < 80


def test_none_does_as_evaluation_with_its_crop():
    image = picture()
    (view,) = Views("center", 32, 32, plain())(image)
    assert np.array_equal(Augment("none", 32, plain())(image, epoch=3, index=3), view)


# Widths of 31, 24, 24 and 32 after resizing, so margins beside the crop of 14, 6, 6 and the odd 15.
@pytest.mark.parametrize(("height", "width", "crop"), [(40, 53, 17), (31, 20, 18), (20, 20, 18), (30, 40, 17)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_views_are_torchvisions(height: int, width: int, crop: int, kind: type):
    image = picture(height, width, kind=kind)
    resize = v2.Resize(24, antialias=True)
    assert torch.equal(chw(resized(image, 24)), resize(chw(image)))
    (view,) = Views("center", 24, crop, plain())(image)
    assert torch.equal(chw(view), v2.CenterCrop(crop)(resize(chw(image))))
    ours = Views("ten", 24, crop, plain())(image)
    theirs = v2.TenCrop(crop)(resize(chw(image)))
    assert all(torch.equal(chw(view), other) for view, other in zip(ours, theirs))


def test_bicubic_is_torchvisions():
    image = picture(40, 53)
    resize = v2.Resize(24, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    (view,) = Views("center", 24, 17, plain(), "bicubic")(image)
    assert torch.equal(chw(view), v2.CenterCrop(17)(resize(chw(image))))
    (bilinear,) = Views("center", 24, 17, plain())(image)
    assert not np.array_equal(view, bilinear)


def test_crops_by_hand():
    image = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
    # Rows 0, 5, 10, 15; the middle of 4 rows begins at 1, of 5 columns at round(1.5) = 2.
    assert center(image, 2)[..., 0].tolist() == [[7, 8], [12, 13]]
    assert [crop[..., 0].tolist() for crop in corners(image, 2)] == [
        [[0, 1], [5, 6]],
        [[3, 4], [8, 9]],
        [[10, 11], [15, 16]],
        [[13, 14], [18, 19]],
    ]
    views = mirrored([image[:1], image[1:2]])
    assert [view[0, :, 0].tolist() for view in views[2:]] == [[4, 3, 2, 1, 0], [9, 8, 7, 6, 5]]


def test_multiscale_is_whole_images_at_five_sizes():
    """Table 4: shorter sides 224, 256, 384, 480 and 640 for models of 224, in proportion for others."""
    sides = [view.shape for view in Views("multiscale", 256, 224, plain())(picture(20, 30))]
    assert sides == [(s, s * 3 // 2, 3) for s in (224, 256, 384, 480, 640)] * 2
    views = Views("multiscale", 32, 32, plain())(picture(64, 64))
    assert [view.shape[0] for view in views] == [32, 37, 55, 69, 91] * 2  # 32 / 224 of them
    assert np.array_equal(views[5], views[0][:, ::-1])


def test_normalise_touches_floats_alone():
    normalise = Normalise((1.0, 2.0), (2.0, 4.0))
    out = normalise(np.array([[[3.0, -2.0]]], np.float32))
    assert (out.tolist(), out.dtype) == ([[[1.0, -1.0]]], np.float32)  # (3 - 1) / 2, (-2 - 2) / 4
    pixels = np.array([[[3, 2]]], np.uint8)
    assert normalise(pixels) is pixels
    assert Augment("none", 1, normalise)(np.full((1, 1, 2), 3, np.float32), epoch=0, index=0).tolist() == [[[1, 0.25]]]
    assert Views("ten", 1, 1, normalise)(np.full((1, 1, 2), 3, np.float32))[9].tolist() == [[[1, 0.25]]]
