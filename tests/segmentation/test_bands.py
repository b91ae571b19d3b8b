"""Images of any number of channels with label maps: arrays and TIFF files of bands, from data to prediction."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import segmentation
from backbones.common.decoding import channels_of, decode, decode_raw
from backbones.errors import UserError
from segmentation.data.folders import open_source
from segmentation.data.statistics import measure_channels
from segmentation.draw import viewable
from segmentation.options import SegmentationDataOptions
from segmentation.transforms import Augment
from tools import train_seg

BANDS = np.arange(5 * 24 * 32, dtype=np.uint16).reshape(24, 32, 5)  # [H, W, bands]


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "minisblack"},  # pages
        {"photometric": "minisblack", "planarconfig": "separate"},
        {"photometric": "minisblack", "compression": "zlib"},
    ],
    ids=["pages", "planes", "compressed"],
)
def test_tiff_files_of_bands_are_read_in_any_order_of_the_axes(tmp_path: Path, options: dict[str, str]):
    path = tmp_path / "a.TIF"
    tifffile.imwrite(path, BANDS.transpose(2, 0, 1), **options)
    found = decode(path.read_bytes(), str(path), 5)
    assert np.array_equal(found, (BANDS / 65535).astype(np.float32))  # 16 bits become 0..1
    assert channels_of(path) == 5 and np.array_equal(decode_raw(path.read_bytes(), path.name), BANDS)
    with pytest.raises(UserError, match="has 5 channels, not 6; use --in-channels 5"):
        decode(path.read_bytes(), str(path), 6)
    with pytest.raises(UserError, match=r"a\.TIF: does not decode"):
        decode(path.read_bytes()[:40], str(path), 5)


def test_samples_of_a_pixel_are_bands_and_photographs_stay_rgb(tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.tif", BANDS.astype(np.uint8), photometric="minisblack", planarconfig="contig")
    assert np.array_equal(decode((tmp_path / "a.tif").read_bytes(), "a.tif", 5), BANDS.astype(np.uint8))
    tifffile.imwrite(tmp_path / "b.tif", BANDS[..., :3].astype(np.uint8), photometric="rgb")
    assert channels_of(tmp_path / "b.tif") == 3
    cube = io.BytesIO()
    tifffile.imwrite(cube, np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack")
    with pytest.raises(UserError, match="expected a TIFF file of bands of one image"):
        decode(cube.getvalue(), "cube.tif", 5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training images and two for validation, of five floating bands, the last of which shows the class."""
    root, random = tmp_path_factory.mktemp("bands") / "data", np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for number in range(count):
            bands = random.normal(100, 20, (32, 32, 5)).astype(np.float32)
            bands[:, 16:, 4] += 200
            if number % 2:
                tifffile.imwrite(root / "images" / split / f"{number}.tif", bands.transpose(2, 0, 1))
            else:
                np.save(root / "images" / split / f"{number}.npy", bands)
            np.save(root / "masks" / split / f"{number}.npy", np.repeat([[0, 1]], 16, axis=1).repeat(32, axis=0))
    (root / "classes.txt").write_text("left\nright\n")
    return root


def test_statistics_and_augmentation_work_on_any_number_of_bands(data: Path):
    source = open_source(data, "train", SegmentationDataOptions())
    assert source.in_channels == 5 and source.image(0).dtype == np.float32
    mean, std = measure_channels(source, np.arange(4))
    every = np.stack([source.image(row) for row in range(4)]).reshape(-1, 5).astype(np.float64)
    assert mean == pytest.approx(every.mean(0)) and std == pytest.approx(every.std(0))
    for preset in ("train", "light", "eval"):
        image, labels = Augment(preset, crop=48)(source.image(0), source.labels(0, (32, 32)), epoch=0, index=0)
        assert image.shape[2] == 5 and image.dtype == np.float32 and labels.shape == image.shape[:2]
    shown = viewable(source.image(0))
    assert (shown.shape, shown.dtype, shown.min(), shown.max()) == ((32, 32, 3), np.uint8, 0, 255)
    with pytest.raises(UserError, match=r"0\.npy: has 5 channels, not 4; use --in-channels 5"):
        open_source(data, "train", SegmentationDataOptions(in_channels=4)).image(0)


def test_a_run_on_bands_trains_is_measured_again_and_predicts(data: Path, tmp_path: Path):
    folder = tmp_path / "run"
    words = ["--data", data, "--recipe", "shapes", "--backbone", "resnet18", "--weights", "none", "--epochs", 1]
    words += ["--batch-size", 2, "--crop-size", 32, "--workers", 0, "--threads", 1, "--precision", "fp32"]
    train_seg.main([*map(str, words), "--normalise", "data", "--output", str(folder)])
    results = json.loads((folder / "results.json").read_text())
    assert results["images"] == 2 and (folder / "samples.png").is_file()
    model = segmentation.load(folder, device="cpu")
    assert model.model.backbone.in_channels == 5 and model.model.backbone.mean[4] == pytest.approx(200, abs=5)
    files = sorted((data / "images" / "val").iterdir())
    found = [each.labels for each in model(files)]
    assert [each.shape for each in found] == [(32, 32)] * 2
    # The loaded model predicts what the evaluation measured.
    truth = torch.from_numpy(np.repeat([[0, 1]], 16, axis=1).repeat(32, axis=0))
    right = torch.stack([each == truth for each in found]).float().mean().item()
    assert right == pytest.approx(results["pixel_accuracy"], abs=1e-3)
