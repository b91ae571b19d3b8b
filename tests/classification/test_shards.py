"""Tar shards: index, order, resuming, exact validation, web servers and object stores, and every kind of damage."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backbones.errors import UserError
from classification.data.shard_index import holds_shards, read_index
from classification.data.shards import EvalShards, ShardBatches, ShardStream, shard_loader
from tools.cli import ending

TRAIN, VAL = (5, 3, 4), (2, 3)  # samples of each shard


def png(number: int) -> bytes:
    """Return an image of 2 x 3 pixels whose colour is its number."""
    return cv2.imencode(".png", np.full((2, 3, 3), number, np.uint8))[1].tobytes()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(root: Path, **splits: tuple[int, ...]) -> Path:
    """Write shards of these sizes. An image's colour is its index in the split; its class is the colour modulo 3."""
    root.mkdir(exist_ok=True)
    index: dict[str, Any] = {"classes": ["ant", "bee", "cat"]}
    for split, counts in splits.items():
        numbers = iter(range(sum(counts)))
        index[split] = {f"{split}-{place}.tar": count for place, count in enumerate(counts)}
        for name, count in index[split].items():
            chosen = [next(numbers) for _ in range(count)]
            files = {n: c for k in chosen for n, c in ((f"k{k}.png", png(k)), (f"k{k}.cls", str(k % 3).encode()))}
            write_tar(root / name, files)
    (root / "shards.json").write_text(json.dumps(index))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "data", train=TRAIN, val=VAL)


def decode(content: bytes, name: str, in_channels: int, **_: Any) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise UserError(f"{name}: does not decode")
    return image[..., :in_channels]


class Brighten:
    """Adds 100 to all pixels in each epoch; images are decoded whole."""

    def __call__(self, image: np.ndarray, *, epoch: int, index: int) -> np.ndarray:
        return image + np.uint8(100 * epoch)

    def shrink_factor(self, size: tuple[int, int]) -> int:
        return 1


def collate(items: list[Any]) -> tuple[list[Any], list[Any]]:
    images, targets = zip(*items)
    return list(images), list(targets)


def training(address: Path | str, batches: ShardBatches, workers: int = 0, **options: Any) -> Any:
    options = {"decode": decode, "transform": Brighten(), **options}
    return shard_loader(ShardStream(read_index(str(address)), batches, **options), workers=workers, collate=collate)


def validation(address: Path | str, workers: int = 0, **options: Any) -> Any:
    data = EvalShards(read_index(str(address)), batch_size=2, decode=decode, transform=Brighten(), **options)
    return shard_loader(data, workers=workers, collate=collate)


def indices(loader: Any) -> list[list[int]]:
    return [[target["index"] for target in targets] for _, targets in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return sum(batches, [])


def test_the_index_names_classes_and_numbers_samples(root: Path):
    index = read_index(str(root))
    assert index.classes == ("ant", "bee", "cat")
    assert (index.count("train"), index.count("val")) == (12, 5)
    assert [(Path(shard.address).name, shard.first) for shard in index.train] == [
        ("train-0.tar", 0), ("train-1.tar", 5), ("train-2.tar", 8),
    ]  # fmt: skip


def test_a_folder_without_index_is_scanned(root: Path):
    listed = read_index(str(root))
    (root / "shards.json").unlink()
    assert holds_shards(str(root))
    scanned = read_index(str(root))
    assert (scanned.train, scanned.val) == (listed.train, listed.val)
    assert scanned.classes == ("0", "1", "2")
    (root / "classes.txt").write_text("# insects and others\nant\nbee\n\ncat\n")
    assert read_index(str(root)).classes == listed.classes


def test_other_folders_hold_no_shards(tmp_path: Path):
    (tmp_path / "train").mkdir()
    assert not holds_shards(str(tmp_path))
    assert holds_shards("s3://bucket/imagenet")
    with pytest.raises(UserError, match=r"neither shards.json nor train-\*.tar"):
        read_index(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        read_index("pipe:echo hello")


COMMAND = "pipe:touch ran.tar"


@pytest.mark.parametrize(
    "name",
    [COMMAND, "../a.tar", "a/../b.tar", "/a.tar", "http://host/a.tar", "file:a.tar", "-a.tar", "a.zip", ".a.tar"],
)
def test_only_plain_names_are_opened(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps({"classes": ["a"], "train": {name: 1}}))
    with pytest.raises(UserError, match="which is not a valid shard path; use a relative path inside the folder"):
        read_index(str(tmp_path))
    assert not (tmp_path / "ran.tar").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"classes": [], "train": {"a.tar": 1}}', "`classes` must be a list of different names"),
        ('{"classes": ["a", "a"], "train": {"a.tar": 1}}', "`classes` must be a list of different names"),
        ('{"classes": ["a"], "train": ["a.tar"]}', "`train` must be an object of counts"),
        ('{"classes": ["a"], "val": {"a.tar": 0}}', "`val` gives 0 as the number of samples in a.tar"),
        ('{"classes": ["a"], "val": {"a.tar": true}}', "`val` gives True as the number of samples in a.tar"),
        ('{"classes": ["a"]}', "lists no shards"),
        ('{"classes": ["a"], "train": {"a.tar": 1}}', "a.tar, but there is no such file"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_index(str(tmp_path))
    assert str(tmp_path / "shards.json") in str(error.value)


def test_an_item_is_that_of_a_folder(root: Path):
    batches = ShardBatches(12, 4, seed=0)
    batches.seek(1)
    for images, targets in training(root, batches):
        for image, target in zip(images, targets):
            assert image.shape == (3, 2, 3)  # [C, H, W]
            assert image.unique().tolist() == [100 + target["index"]]  # the colour, augmented in epoch 1
            assert target == {"index": target["index"], "label": target["index"] % 3}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("buffer", [1, 4, 100])
def test_one_process_drops_no_image(root: Path, workers: int, buffer: int):
    found = indices(training(root, ShardBatches(12, 5, seed=0), workers, buffer=buffer))
    assert [len(batch) for batch in found] == [5, 5, 5]  # 12 images in steps of 5, the last one filled up with 3
    assert sorted(flat(found)[:12]) == list(range(12))
    assert sorted(Counter(flat(found)).values()) == [1] * 9 + [2] * 3


def test_order_is_a_function_of_seed_and_epoch(root: Path):
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = ShardBatches(12, 4, seed=seed)
        batches.seek(epoch)
        return indices(training(root, batches))

    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert flat(order(0, 0)) != sorted(flat(order(0, 0)))


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (3, 0), (2, 2), (4, 0)])
def test_every_process_has_as_many_batches(root: Path, world: int, workers: int):
    """12 images, 8 a step: 2 steps of 2 batches, on each process 4 batches of 8 / (2 world) images."""
    found = []
    for rank in range(world):
        size = 4 * world
        batches = ShardBatches(12, size, seed=0, accumulate=2, rank=rank, world_size=world)
        parts = indices(training(root, batches, workers))
        assert len(parts) == len(batches) == -(-12 // size) * 2
        assert {len(part) for part in parts} == {2}
        found.append(set(flat(parts)))
    disjoint = sum(map(len, found)) == len(set().union(*found))
    assert disjoint


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_resuming_goes_on_exactly(root: Path, workers: int):
    batches = ShardBatches(12, 2, seed=3, accumulate=1)
    loader = training(root, batches, workers, buffer=6)
    epochs = []
    for epoch in (0, 1):  # persistent workers see the second seek
        batches.seek(epoch)
        epochs.append(indices(loader))
    assert epochs[0] != epochs[1]
    for step in (1, 2, 5):
        fresh = ShardBatches(12, 2, seed=3, accumulate=1)
        fresh.seek(1, step)
        assert len(fresh) == 6 - step
        assert indices(training(root, fresh, workers, buffer=6)) == epochs[1][step:]
        batches.seek(1, step)
        assert indices(loader) == epochs[1][step:]


def test_skipped_images_are_not_decoded(root: Path):
    names = []

    def noted(content: bytes, name: str, in_channels: int, **options: Any) -> np.ndarray:
        names.append(name)
        return decode(content, name, in_channels, **options)

    batches = ShardBatches(12, 4, seed=0)
    batches.seek(0, 2)
    indices(training(root, batches, decode=noted))
    assert len(names) == 4


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (7, 0)])
def test_validation_sees_each_image_once(root: Path, world: int, workers: int):
    found = [flat(indices(validation(root, workers, rank=rank, world_size=world))) for rank in range(world)]
    assert sorted(flat(found)) == list(range(5))


def test_a_missing_split_is_an_error(root: Path):
    value = json.loads((root / "shards.json").read_text())
    (root / "shards.json").write_text(json.dumps({**value, "val": {}}))
    with pytest.raises(UserError, match="has no shards for the split val"):
        validation(root)


def cut(path: Path, where: str) -> None:
    """Cut a shard of five samples short behind its second one."""
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4]
    end = {"file": third.offset_data + 10, "header": third.offset + 100, "boundary": third.offset}[where]
    path.write_bytes(path.read_bytes()[:end])


@pytest.mark.parametrize("where", ["file", "header", "boundary"])
def test_a_shard_cut_short_is_no_shorter_data_set(root: Path, where: str):
    cut(root / "train-0.tar", where)
    with pytest.raises(UserError, match=r"train-0.tar: is damaged or truncated") as error:
        indices(training(root, ShardBatches(12, 4, seed=0)))
    assert "\n" not in str(error.value)
    (root / "shards.json").unlink()
    with pytest.raises(UserError, match=r"train-0.tar: is damaged or truncated"):
        read_index(str(root))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"x", "a.cls": b"0"}, r"train-0.tar: a.png: does not decode"),
        ({"a.png": png(1)}, r"train-0.tar: sample a: has an image but no class"),
        ({"a.txt": b"hi", "a.cls": b"0"}, r"train-0.tar: sample a: has no image"),
        ({"a.png": png(1), "a.jpg": png(1), "a.cls": b"0"}, r"sample a: has .jpg and .png"),
        ({"a.png": png(1), "b.cls": b"0", "a.cls": b"0"}, r"sample a: has an image but no class"),
        ({"a.png": png(1), "a.cls": b"3"}, r"sample a: class '3' is not a number from 0 to 2"),
        ({"a.png": png(1), "a.cls": b"-1"}, r"sample a: class '-1' is not a number"),
        ({"a.png": png(1), "a.cls": b"dog"}, r"sample a: class 'dog' is not a number"),
        ({"a.png": png(1), "a.PNG": png(1), "a.cls": b"0"}, r"train-0.tar: is damaged .*duplicate file name"),
        ({"a.png": png(1), "a.cls": b"0", "b.png": png(1), "b.cls": b"0"}, r"contains more than the 1 samples"),
        ({}, r"damaged or truncated \(0 of 1 samples\)"),
    ],
)
def test_a_bad_sample_is_named(tmp_path: Path, files: dict[str, bytes], message: str):
    root = write_shards(tmp_path, train=(1,))
    write_tar(root / "train-0.tar", files)
    with pytest.raises(UserError, match=message):
        indices(training(root, ShardBatches(1, 1, seed=0)))


def test_an_error_of_a_worker_is_one_line(root: Path, capsys):
    cut(root / "train-0.tar", "header")
    with pytest.raises(SystemExit, match="2"):
        ending.run(lambda: indices(training(root, ShardBatches(12, 4, seed=0), workers=2)))
    shard = root / "train-0.tar"
    expected = f"error: {shard}: is damaged or truncated (2 of 5 samples); copy or write the shard again\n"
    assert capsys.readouterr().err.endswith(expected)


def test_a_shard_that_went_away_is_named(root: Path):
    loader = training(root, ShardBatches(12, 4, seed=0))
    (root / "train-1.tar").unlink()
    with pytest.raises(UserError, match=r"train-1.tar: no such file"):
        indices(loader)
