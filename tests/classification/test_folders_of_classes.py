"""Class folders: every kind of file, damage, the listing, limits, statistics and the loaders."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from backbones.common.bits import require_bits
from backbones.common.datasets import spread
from backbones.common.decoding import decode
from backbones.common.images import pixels_of
from backbones.common.loading import loader
from backbones.errors import UserError
from classification.data.folder_source import FolderSource
from classification.data.folders import ClassFolder, list_classes, require_filled, split_folder
from classification.data.items import collate
from classification.data.names import ClassNames
from classification.data.opening import open_source
from classification.data.shard_source import ShardSource
from classification.data.shard_writer import make_shards
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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif", ".ppm"])
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


def test_heic_photos_are_read_where_pillow_heif_is_installed():
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    stream = io.BytesIO()
    Image.fromarray(np.tile(RED, (8, 8, 1))).save(stream, "HEIF", quality=100)
    pixels = decode(stream.getvalue(), "a.heic", 3)
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels.astype(int) - (250, 10, 20)).max() <= 8  # chroma is rounded
    with pytest.raises(UserError, match="does not decode"):
        decode(stream.getvalue()[:200], "a.heic", 3)


def test_deep_pictures_are_scaled_by_the_bits_of_the_data_set(tmp_path: Path):
    values = np.array([[0, 16, 2048, 4095]], np.uint16)
    content = cv2.imencode(".png", values)[1].tobytes()
    assert decode(content, "a.png", 1, 12)[0, :, 0].tolist() == [0, 1, 128, 255]  # the values divided by 16
    assert decode(content, "a.png", 3, 12)[0, :, 2].tolist() == [0, 1, 128, 255]
    assert decode(content, "a.png", 1)[0, :, 0].tolist() == [0, 0, 8, 15]  # by 256
    with pytest.raises(UserError, match=r"a\.png: holds the 16-bit value 4095, which needs more than --bits 11"):
        decode(content, "a.png", 3, 11)
    assert np.array_equal(decode(encoded(".png", RED), "b.png", 3, 12), RED)  # images of 8 bits stay as they are
    pixels = pixels_of(Image.fromarray(values), Path.read_bytes, in_channels=1, apply_exif=True, bits=12)
    assert pixels.flatten().tolist() == [0, 1, 128, 255]
    paths = [tmp_path / f"{index}.png" for index in range(40)]
    for path in paths:
        path.write_bytes(content)
    require_bits(paths, 12)
    with pytest.raises(UserError, match=r"no value of the 16 that were read is above 4095; name .* --bits 12, or"):
        require_bits(paths, None)
    cv2.imwrite(str(paths[5]), values * 16)
    require_bits(paths, None)  # 5 = 2 * 40 // 16 is among those that are read


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
    "no pixels": ("a.npy", npy(np.zeros((0, 5, 3), np.uint8)), "is an empty array of shape [0, 5, 3]"),
    "no bands": ("a.npy", npy(np.zeros((4, 5, 0))), "is an empty array"),
    "bands": ("a.npy", npy(np.zeros((4, 5, 4))), "has 4 channels, not 3; use --in-channels 4"),
    "nan": ("a.npy", npy(np.full((2, 2, 3), np.nan)), "contains NaN"),
    "inf": ("a.npy", npy(np.full((2, 2, 3), np.inf, np.float32)), "contains NaN, or numbers too large"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(name: str):
    file, content, text = BROKEN[name]
    with pytest.raises(UserError, match=f"^{file}: .*{re.escape(text)}"):
        decode(content, file, 3)


def test_pictures_have_one_or_three_channels():
    with pytest.raises(
        UserError,
        match=r"a\.png: the model needs 5 channels, but an image file has 1 or 3; store the channels as a \.npy",
    ):
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
    (root / "train" / "beside.png").touch()
    listing = list_classes(root / "train")
    assert listing.names == ("ant", "bee ü") and listing.passed_over == {".txt": 1, ".png": 1}
    assert [os.fsdecode(file) for file in listing.files] == [
        "ant/0 é.png", "ant/1 é.png", "ant/2 é.png", "ant/deep/er/X.JPEG", "ant/folder.png/kept.npy",
        "bee ü/0 é.png", "bee ü/1 é.png",
    ]  # fmt: skip
    assert listing.numbers.tolist() == [0] * 5 + [1] * 2


def test_links_to_folders_are_followed_but_not_in_a_circle(root: Path, tmp_path: Path):
    ant = root / "train" / "ant"
    (tmp_path / "elsewhere").mkdir()
    (root / "train" / "bee ü" / "0 é.png").rename(tmp_path / "elsewhere" / "x.png")
    (ant / "linked").symlink_to(tmp_path / "elsewhere")
    (ant / "itself").symlink_to(ant)
    (tmp_path / "elsewhere" / "back").symlink_to(ant)
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    listing = list_classes(root / "train")
    assert [file.decode() for file in listing.files[listing.numbers == 0]] == [
        "ant/0 é.png", "ant/1 é.png", "ant/2 é.png", "ant/linked/x.png",
    ]  # fmt: skip
    # The folder "cat" is the other one, which links back to "ant".
    assert [file.decode() for file in listing.files[listing.numbers == 2]] == [
        "cat/back/0 é.png", "cat/back/1 é.png", "cat/back/2 é.png", "cat/x.png",
    ]  # fmt: skip


def test_names_that_are_no_text_are_read_and_shown(root: Path):
    odd = root / "val" / "ant" / os.fsdecode(b"\xff.png")
    odd.write_bytes(encoded(".png", RED))
    source = FolderSource(root, in_channels=None, splits=("val",))
    data = ClassFolder(list_classes(root / "val"), None, in_channels=3)
    assert data[1][0][:, 0, 0].tolist() == [250, 10, 20]
    assert source.names("val", np.array([1, 0])) == ["ant/\ufffd.png", "ant/0 é.png"]


def test_listing_refuses_what_is_no_split(root: Path, tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"--data .*data: has no folder test/ \(existing folders: train/, val/\); arrange the images as",
    ):
        split_folder(root, "test")
    (root / "train" / "cat").mkdir()
    for name in (".DS_Store.png", "a.svg"):
        (root / "train" / "cat" / name).touch()
    with pytest.raises(
        UserError, match=r"train/cat: this class folder contains 1 \.svg, but no images \(.*\); add images"
    ):
        require_filled(list_classes(root / "train"))
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="data/empty: has no class folders; expected empty/CLASS"):
        list_classes(root / "empty")
    for name in ("images", "labels"):
        (root / "empty" / name).mkdir()
    with pytest.raises(
        UserError, match="empty: holds images, labels, which look like the folders of a data set of boxes"
    ):
        list_classes(root / "empty")


def test_validation_may_lack_classes_and_labels_go_by_name(root: Path):
    (root / "val" / "ant" / "0 é.png").unlink()
    source = FolderSource(root, in_channels=None, splits=("train", "val"))
    assert source.classes == ("ant", "bee ü")
    assert source.present("val").tolist() == [1] and source.expected("val") is None
    assert source.remarks == {"train": "", "val": "no image of ant"}
    views = Views("center", 4, 4, PLAIN)
    ((_, targets),) = source.eval_loader("val", views, rank=0, world_size=1, batch_size=2, workers=0)
    assert targets["label"].tolist() == [1]
    (root / "val" / "bee ü").rename(root / "val" / "cow")
    with pytest.raises(UserError, match=r"val/cow: is not one of the 2 classes of .*train \(ant, bee ü\); 1 of 1"):
        FolderSource(root, in_channels=None, splits=("train", "val"))


def test_classes_of_weights_give_the_labels_of_folders(root: Path):
    classes = ClassNames.of(["cow", "bee ü", "ant", "emu"])
    source = FolderSource(root, in_channels=None, splits=("val",), classes=classes)
    views = Views("center", 4, 4, PLAIN)
    ((_, targets),) = source.eval_loader("val", views, rank=0, world_size=1, batch_size=2, workers=0)
    assert (source.classes, targets["label"].tolist()) == (("cow", "bee ü", "ant", "emu"), [2, 1])
    assert source.remarks == {"val": "no image of cow, emu"}


def test_classes_of_imagenet_have_synsets_words_and_numbers():
    classes = ClassNames.imagenet()
    assert len(classes.names) == 1000 and classes.names[0] == "n01440764"
    # Labels 0, 217 and 701 of ILSVRC 2012.
    for names, label in ((("n01440764", "tench", "Tinca tinca", "000"), 0), (("English springer", "217"), 217)):
        assert [classes.labels[name] for name in names] == [label] * len(names)
    assert classes.labels["English_springer"] == 217 and classes.labels["n03888257"] == classes.labels["parachute"]
    assert "crane" not in classes.labels  # a bird and a machine
    # Ten synsets that were trained alone are found by their words as well; other classes are not mixed with ImageNet's.
    assert ClassNames.of(["n02102040", "n01440764"]).labels["tench"] == 1
    assert "n01440764" not in ClassNames.of(["tench", "my own"]).labels


def test_folders_that_hold_only_folders_are_remarked(root: Path):
    (root / "train" / "all").mkdir()
    (root / "train" / "ant").rename(root / "train" / "all" / "ant")
    (root / "val" / "ant").rename(root / "val" / "all")
    remarks = FolderSource(root, in_channels=None, splits=("train", "val")).remarks
    assert remarks["train"] == "WARNING: all images of all lie in folders below, which may be the classes"


def test_a_file_that_went_away_is_named(root: Path):
    data = ClassFolder(list_classes(root / "train"), None, in_channels=3)
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
    data = ClassFolder(list_classes(root / "train"), Views("ten", 4, 4, PLAIN), in_channels=3)
    ((views, targets),) = loader(data, workers=0, collate=collate, batch_size=5)
    assert [view.shape for view in views] == [(5, 3, 4, 4)] * 10
    assert targets["label"].tolist() == [0, 0, 0, 1, 1]


def test_bytes_and_floats_do_not_meet_in_a_batch(root: Path):
    np.save(root / "val" / "ant" / "1.npy", np.zeros((4, 6, 3), np.uint16))
    source = FolderSource(root, in_channels=None, splits=("train", "val"))
    views = Views("center", 4, 4, PLAIN)
    with pytest.raises(UserError, match="a batch contains both uint8 images and floating-point arrays; store all"):
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


def test_a_test_folder_never_serves_for_validation_unless_it_is_named(root: Path):
    (root / "val").rename(root / "test")
    with pytest.raises(UserError, match=r"has no folder val/ \(existing folders: test/, train/\); arrange"):
        open_source(str(root), in_channels=None, splits=("train", "val"))
    names = {"train": "train", "val": "test"}
    source = open_source(str(root), in_channels=None, splits=("train", "val"), folder_names=names)
    assert (source.val_size, source.where["val"]) == (2, str(root / "test"))
    for name in ("dev", "validation", "valid", "val"):  # each comes before those that exist already
        shutil.copytree(root / "test", root / name)
        source = open_source(str(root), in_channels=None, splits=("train", "val"))
        assert source.where == {"train": str(root / "train"), "val": str(root / name)}
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
    with pytest.raises(UserError, match="--train-eval: does not work with tar shards"):
        shards.eval_loader("train", views, **options)
    with pytest.raises(UserError, match="--normalise data: does not work with tar shards"):
        shards.statistics(3)
    with pytest.raises(UserError, match="--sample: does not work with tar shards"):
        open_source(str(tmp_path / "shards"), in_channels=None, sample=3, splits=("val",))
