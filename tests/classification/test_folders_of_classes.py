"""Class folders: every kind of file, damage, the listing, limits, statistics and the loaders."""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from backbones.common.loading import loader
from backbones.errors import UserError
from classification.data.decoding import decode
from classification.data.folders import ClassFolder, require_same_classes, scan
from classification.data.items import collate
from classification.data.shard_writer import make_shards
from classification.data.source import FolderSource, ShardSource, open_source, spread
from classification.transforms import Augment, Normalise, Views

RED = np.full((4, 6, 3), (250, 10, 20), np.uint8)  # RGB
PLAIN = Normalise((0.5,) * 3, (0.5,) * 3)


def encoded(suffix: str, rgb: np.ndarray) -> bytes:
    return cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, three and two training images of 6 x 4 pixels, one validation image each, all of one colour."""
    numbers = iter(range(10, 200, 20))
    for folder, count in (("train/ant", 3), ("train/bee ü", 2), ("val/ant", 1), ("val/bee ü", 1)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for place in range(count):
            image = np.full((4, 6, 3), next(numbers), np.uint8)
            (tmp_path / "data" / folder / f"{place} é.png").write_bytes(encoded(".png", image))
    return tmp_path / "data"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_pictures_become_rgb_or_grey(suffix: str):
    content = encoded(suffix, RED)
    colour, grey = decode(content, "a" + suffix, 3), decode(content, "a" + suffix, 1)
    assert (colour.shape, grey.shape, colour.dtype, grey.dtype) == ((4, 6, 3), (4, 6, 1), np.uint8, np.uint8)
    assert np.abs(colour.astype(int) - (250, 10, 20)).max() <= 8  # red comes first; JPEG and WebP round
    # 0.299 * 250 + 0.587 * 10 + 0.114 * 20 = 82.9
    assert np.abs(grey.astype(int) - 83).max() <= 4


def test_pictures_of_other_depths():
    deep = np.full((2, 2), 0x80FF, np.uint16)  # 16 bits: the upper eight count
    assert decode(cv2.imencode(".png", deep)[1].tobytes(), "a.png", 3).tolist() == [[[128] * 3] * 2] * 2
    see_through = np.dstack([RED[..., ::-1], np.full((4, 6), 7, np.uint8)])
    assert np.array_equal(decode(cv2.imencode(".png", see_through)[1].tobytes(), "a.png", 3), RED)


def test_pictures_are_turned_as_exif_says():
    image, stream = Image.fromarray(np.repeat(np.arange(0, 240, 40, np.uint8)[None], 4, 0)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    image.convert("RGB").save(stream, "JPEG", exif=exif, quality=100)
    turned = decode(stream.getvalue(), "a.jpg", 3)
    assert turned.shape == (6, 4, 3)
    assert np.abs(turned[:, 0, 0].astype(int) - np.arange(0, 240, 40)).max() <= 4


def test_arrays_keep_their_bands_and_scale():
    bytes_ = np.arange(40, dtype=np.uint8).reshape(2, 4, 5)
    assert np.array_equal(decode(npy(bytes_), "a.npy", 5), bytes_)
    for kind in ("<u2", ">u2"):  # both byte orders
        words = decode(npy(np.array([[0, 65535]], kind)), "a.npy", 1)
        assert (words.dtype, words.tolist()) == (np.float32, [[[0.0], [1.0]]])
    for kind in (">f4", np.float64, np.float16, np.int32):
        floats = decode(npy(np.array([[-3, 2]], kind)), "a.NPY", 1)
        assert (floats.dtype, floats.tolist()) == (np.float32, [[[-3.0], [2.0]]])


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def archive() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, np.zeros((2, 2)))
    return stream.getvalue()


HEADER = npy(np.zeros((2, 2, 3)))
HUGE = HEADER.replace(b"(2, 2, 3), }      ", b"(9000000,9000000)}")
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty file": ("a.jpg", b"", "does not decode"),
    "no image": ("a.jpg", b"hello", "does not decode"),
    "cut jpeg": ("a.jpg", encoded(".jpg", np.tile(RED, (20, 20, 1)))[:-20], "does not decode"),
    "cut png": ("a.png", encoded(".png", RED)[:-20], "does not decode"),
    "cut webp": ("a.webp", encoded(".webp", RED)[:-9], "does not decode"),
    "cut bmp": ("a.bmp", encoded(".bmp", RED)[:-20], "does not decode"),
    "empty array file": ("a.npy", b"", "does not decode"),
    "cut array": ("a.npy", HEADER[:-1], "does not decode"),
    "array header alone": ("a.npy", HEADER[:30], "does not decode"),
    "array header spoilt": ("a.npy", HEADER.replace(b"(2, 2, 3), }", b"(2, 2, 3),  "), "does not decode"),
    "array beyond memory": ("a.npy", HUGE, "does not decode"),
    "archive": ("a.npy", archive(), "does not decode"),
    "text": ("a.npy", npy(np.array([["x"]])), "expected an array"),
    "a row": ("a.npy", npy(np.zeros(3)), "expected an array"),
    "no pixels": ("a.npy", npy(np.zeros((0, 5, 3), np.uint8)), "is an empty array, [0, 5, 3]"),
    "no bands": ("a.npy", npy(np.zeros((4, 5, 0))), "is an empty array"),
    "bands": ("a.npy", npy(np.zeros((4, 5, 4))), "has 4 channels, not 3; use --in-channels 4"),
    "nan": ("a.npy", npy(np.full((2, 2, 3), np.nan)), "holds NaN"),
    "inf": ("a.npy", npy(np.full((2, 2, 3), np.inf, np.float32)), "holds NaN or numbers beyond"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(name: str):
    file, content, text = BROKEN[name]
    with pytest.raises(UserError, match=f"^{file}: .*{re.escape(text)}"):
        decode(content, file, 3)


def test_pictures_have_one_or_three_channels():
    with pytest.raises(UserError, match=r"a\.png: an image gives 1 or 3 channels, not 5; store bands as \.npy"):
        decode(encoded(".png", RED), "a.png", 5)


def test_pickles_do_not_run(tmp_path: Path):
    trap, stream = Trap(tmp_path / "mark"), io.BytesIO()
    np.save(stream, np.array([trap], dtype=object), allow_pickle=True)
    for content in (stream.getvalue(), pickle.dumps(trap)):
        with pytest.raises(UserError, match=r"a\.npy: does not decode"):
            decode(content, "a.npy", 3)
    assert not trap.mark.exists()


def test_listing_takes_images_at_any_depth_and_nothing_hidden(root: Path):
    ant = root / "train" / "ant"
    for name in (
        ".hidden.png",
        "._0 é.png",
        "notes.txt",
        "deep/er/X.JPEG",
        ".checkpoints/0.png",
        "folder.png/kept.npy",
    ):
        (ant / name).parent.mkdir(parents=True, exist_ok=True)
        (ant / name).touch()
    (root / "train" / ".cache").mkdir()
    classes, files, labels = scan(root / "train")
    assert classes == ("ant", "bee ü")
    assert [os.fsdecode(file) for file in files] == [
        "ant/0 é.png", "ant/1 é.png", "ant/2 é.png", "ant/deep/er/X.JPEG", "ant/folder.png/kept.npy",
        "bee ü/0 é.png", "bee ü/1 é.png",
    ]  # fmt: skip
    assert labels.tolist() == [0] * 5 + [1] * 2


def test_names_that_are_no_text_are_read_and_shown(root: Path):
    odd = root / "val" / "ant" / os.fsdecode(b"\xff.png")
    odd.write_bytes(encoded(".png", RED))
    source = FolderSource(root, in_channels=None, splits=("val",))
    data = ClassFolder(root / "val", None, in_channels=3)
    assert data[1][0][:, 0, 0].tolist() == [250, 10, 20]
    assert source.names("val", np.array([1, 0])) == ["ant/\ufffd.png", "ant/0 é.png"]


def test_listing_refuses_what_is_no_split(root: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--data .*data: has no folder test/; expected train/CLASS"):
        scan(root / "test")
    with pytest.raises(UserError, match="data/empty: has no class folders; expected empty/CLASS"):
        (tmp_path / "data" / "empty").mkdir()
        scan(root / "empty")
    (root / "train" / "cat").mkdir()
    (root / "train" / "cat" / ".DS_Store.png").touch()
    with pytest.raises(UserError, match="train/cat: a class without images"):
        scan(root / "train")


def test_classes_must_be_the_same(root: Path):
    require_same_classes(("a", "b"), ("a", "b"), here="x", there="y")
    with pytest.raises(UserError, match=r"of x and y differ: a \(only in x\), c \(only in y\); both need"):
        require_same_classes(("a", "b"), ("b", "c"), here="x", there="y")
    with pytest.raises(UserError, match=r"3 \(only in x\), 4 \(only in x\), 5 \(only in x\) and 2 more; both"):
        require_same_classes("3456", "7", here="x", there="y")
    (root / "val" / "ant").rename(root / "val" / "asp")
    with pytest.raises(UserError, match=r"ant \(only in .*train\), asp \(only in .*val\)"):
        FolderSource(root, in_channels=None, splits=("train", "val"))


def test_a_file_that_went_away_is_named(root: Path):
    data = ClassFolder(root / "train", None, in_channels=3)
    data.path(3).unlink()
    with pytest.raises(UserError, match=r"bee ü/0 é\.png: cannot be read \(No such file"):
        data[3]


def test_limits_spread_over_the_classes(root: Path):
    assert spread(10, 4).tolist() == [0, 2, 5, 7]  # i * 10 // 4
    assert spread(3, 8).tolist() == spread(3, 0).tolist() == [0, 1, 2]
    source = FolderSource(root, in_channels=None, sample=2, splits=("train", "val"))
    assert (source.train_size, source.val_size) == (2, 2)
    _, targets = next(iter(source.train_loader([[0, 1]], augment("none"), workers=0, collate=collate)))
    assert targets["label"].tolist() == [0, 0]  # images 0 and 2 of five
    source = FolderSource(root, in_channels=None, sample=3, splits=("train", "val"))
    _, targets = next(iter(source.train_loader([[0, 1, 2]], augment("none"), workers=0, collate=collate)))
    assert (targets["index"].tolist(), targets["label"].tolist()) == ([0, 1, 3], [0, 0, 1])


def augment(preset: Any, seed: int = 0) -> Augment:
    return Augment(preset, 4, PLAIN, seed)


def test_loaders_give_the_same_with_and_without_workers(root: Path):
    batches = [[(1, 0), (1, 4)], [(2, 3), (1, 2)]]
    source = FolderSource(root, in_channels=None, splits=("train", "val"))
    runs = [list(source.train_loader(batches, augment("cifar"), workers=n, collate=collate)) for n in (0, 2)]
    for (images, targets), (others, again) in zip(*runs):
        assert (images.shape, images.dtype) == ((2, 3, 4, 4), torch.uint8)
        assert torch.equal(images, others)
        assert torch.equal(targets["index"], again["index"])
    data = ClassFolder(root / "train", Views("ten", 4, 4, PLAIN), in_channels=3)
    ((views, targets),) = loader(data, workers=0, collate=collate, batch_size=5)
    assert [view.shape for view in views] == [(5, 3, 4, 4)] * 10
    assert targets["label"].tolist() == [0, 0, 0, 1, 1]


def test_bytes_and_floats_do_not_meet_in_a_batch(root: Path):
    np.save(root / "val" / "ant" / "1.npy", np.zeros((4, 6, 3), np.uint16))
    source = FolderSource(root, in_channels=None, splits=("train", "val"))
    views = Views("center", 4, 4, PLAIN)
    with pytest.raises(UserError, match="a batch holds both uint8 images and floating-point arrays; store all"):
        list(source.eval_loader("val", views, rank=0, world_size=1, batch_size=2, workers=0))


def test_processes_share_the_validation_images(root: Path):
    source = FolderSource(root, in_channels=None, splits=("train", "val"))
    views, found = Views("center", 4, 4, PLAIN), []
    for rank in range(2):
        parts = source.eval_loader("train", views, rank=rank, world_size=2, batch_size=2, workers=0)
        found += [targets["index"].tolist() for _, targets in parts]
    assert found == [[0, 1], [4], [2, 3]]  # whole batches, as one process makes them


def test_statistics_by_hand(root: Path, tmp_path: Path):
    """Training images are grey of 10, 30, 50, 70 and 90: mean 50, variance (40^2 + 20^2) * 2 / 5 = 800."""
    mean, std = FolderSource(root, in_channels=None, splits=("train", "val")).statistics(count=9)
    assert mean == pytest.approx([50 / 255] * 3)
    assert std == pytest.approx([800**0.5 / 255] * 3)
    for split in ("train", "val"):
        (tmp_path / "bands" / split / "a").mkdir(parents=True)
        bands = np.stack([np.array([[1.0, 3.0]]), np.array([[-2.0, -2.0]])], axis=2)
        np.save(tmp_path / "bands" / split / "a" / "0.npy", bands)
    source = FolderSource(tmp_path / "bands", in_channels=None, splits=("train", "val"))
    assert source.in_channels == 2  # the first file's
    mean, std = source.statistics(count=1)
    assert mean == (2.0, -2.0)
    assert std == pytest.approx((1.0, 1e-6))  # a constant band is not divided by zero


def test_the_first_image_of_each_split_is_looked_at(root: Path):
    np.save(root / "train" / "ant" / "-0.npy", np.zeros((4, 6, 2)))  # comes before the pictures
    FolderSource(root, in_channels=None, splits=("val",))
    with pytest.raises(UserError, match=r"train/ant/-0\.npy: has 2 channels, not 3; use --in-channels 2"):
        FolderSource(root, in_channels=None, splits=("train", "val"))


def test_a_test_folder_serves_for_validation(root: Path):
    (root / "val").rename(root / "test")
    source = open_source(str(root), in_channels=None, splits=("train", "val"))
    assert source.val_size == 2
    (root / "val").mkdir()
    with pytest.raises(UserError, match="val: has no class folders"):
        open_source(str(root), in_channels=None, splits=("train", "val"))
    with pytest.raises(UserError, match="--data nowhere: no such folder"):
        open_source("nowhere", in_channels=None, splits=("val",))


def test_shards_speak_the_same_language(root: Path, tmp_path: Path):
    make_shards(root, tmp_path / "shards")
    folder = open_source(str(root), in_channels=None, splits=("train", "val"))
    shards = open_source(str(tmp_path / "shards"), in_channels=None, splits=("train", "val"))
    assert isinstance(shards, ShardSource)
    for name in ("classes", "in_channels", "train_size", "val_size"):
        assert getattr(shards, name) == getattr(folder, name)
    options: dict[str, Any] = {"rank": 0, "world_size": 1, "batch_size": 2, "workers": 0}
    views = Views("center", 4, 4, PLAIN)
    ((ours, _),), ((theirs, _),) = (source.eval_loader("val", views, **options) for source in (folder, shards))
    assert torch.equal(ours[0], theirs[0])
    assert shards.names("val", np.array([1])) == ["val sample 1"]
    with pytest.raises(UserError, match="cannot be measured"):
        shards.eval_loader("train", views, **options)
    with pytest.raises(UserError, match="--normalise data: not for tar shards"):
        shards.statistics(3)
    with pytest.raises(UserError, match="--sample: not for tar shards"):
        open_source(str(tmp_path / "shards"), in_channels=None, sample=3, splits=("val",))
